"""Detection of HTTP answers that do not come from an S3 server."""

from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from advgrpo.storage.s3_parts import ObjectKey

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

REGION_HEADER = "x-amz-bucket-region"
"""Header of a redirect to another region, the only kind that S3 sends."""

_REDIRECTS = range(300, 400)
_CLIENT_ERRORS = range(400, 500)
_MISSING = 404
# A proxy in front of S3 sends these as web pages: the request is too slow, large or frequent.
_OF_PROXIES = {408, 413, 429}
_PAGE_STARTS = (b"<!doctype html", b"<html")
_QUOTED = 200
# A web page may be well-formed XML, which botocore parses as an answer without fields.
_REQUIRED_FIELDS = {
    "CompleteMultipartUpload": "ETag",
    "CreateMultipartUpload": "UploadId",
    "GetObject": "ETag",
    "HeadObject": "ETag",
    "ListObjectsV2": "IsTruncated",
    "PutObject": "ETag",
    "UploadPart": "ETag",
}


class NotS3Error(Exception):
    """An answer that does not come from an S3 server, such as a web page."""


def check_answers(client: "S3Client") -> None:
    """Make a client raise `NotS3Error` for answers of web consoles, log-in pages and proxies."""
    events = client.meta.events
    # With two wildcards, a handler runs before botocore's own: one of them turns an unexpected body
    # into a retried status 500, another follows redirects until the stack overflows.
    events.register("before-parse.*.*", _check_kind)
    events.register("after-call.s3", _check_fields)


def head_object(client: "S3Client", key: ObjectKey) -> None:
    """Request the headers of an object; an error has the server's reason."""
    try:
        client.head_object(Bucket=key.bucket, Key=key.key)
    except ClientError as error:
        answer = error.response["ResponseMetadata"]
        status, headers = answer["HTTPStatusCode"], answer["HTTPHeaders"]
        is_clear = status == _MISSING and "html" not in headers.get("content-type", "")
        if is_clear or status not in _CLIENT_ERRORS or status in _OF_PROXIES:
            raise
        # An answer to HEAD has no body and so no reason; that to GET has one.
        client.get_object(Bucket=key.bucket, Key=key.key, Range="bytes=0-0")["Body"].close()


def _check_kind(response_dict: dict[str, Any], **_: object) -> None:
    status, headers = response_dict["status_code"], response_dict["headers"]
    if status in _REDIRECTS and REGION_HEADER not in headers:
        target = str(headers.get("location", "another address"))[:_QUOTED]
        raise _not_s3(f"status {status}, a redirect to {target}")
    # The body of an object is a stream, which is not part of this dictionary.
    body = response_dict["body"]
    is_page = isinstance(body, bytes) and body.lstrip()[:20].lower().startswith(_PAGE_STARTS)
    if is_page and status < _CLIENT_ERRORS.stop and status not in _OF_PROXIES:
        raise _not_s3(f"status {status}, a web page")


def _check_fields(http_response: Any, parsed: Any, model: Any, **_: object) -> None:  # noqa: ANN401
    status, field = http_response.status_code, _REQUIRED_FIELDS.get(model.name)
    if status < _REDIRECTS.start and field and field not in parsed:
        if "Body" in parsed:
            parsed["Body"].close()
        content = http_response.headers.get("content-type", "of unknown type")
        raise _not_s3(f"status {status} without {field}, content {content}")


def _not_s3(answer: str) -> NotS3Error:
    return NotS3Error(f"this is not the answer of an S3 server: {answer}")
