"""Answers of S3 servers, and of servers that are not S3, that have nothing to do with keys."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from advgrpo.errors import StorageError, StorageFullError, StorageNotFoundError
from advgrpo.runtime.environment import environment
from advgrpo.storage.s3 import S3Storage

PAGE = b"<!doctype html><html><head><title>Console</title></head><body><br></body></html>"
XHTML = b"<?xml version='1.0'?><html><head><title>Console</title></head></html>"
KEY = "s3://bucket/a/key"


@dataclass
class Answer:
    """What the server answers to every request."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | Callable[[], bytes] = b""
    requests: int = 0
    path: str = ""


def error(code: str, message: str = "", more: str = "") -> bytes:
    return f"<Error><Code>{code}</Code><Message>{message}</Message>{more}</Error>".encode()


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[S3Storage, Answer]]:
    """A server with one answer, and a client."""
    given = Answer()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            """Log nothing."""

        def do_GET(self) -> None:
            given.requests += 1
            given.path = self.path
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.send_response(given.status)
            for name, value in given.headers.items():
                self.send_header(name, value)
            body = given.body() if callable(given.body) else given.body
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_HEAD = do_PUT = do_POST = do_GET  # noqa: N815 - their names

    listening = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    listening.daemon_threads = True
    threading.Thread(target=listening.serve_forever, args=(0.02,), daemon=True).start()
    address = f"http://127.0.0.1:{listening.server_address[1]}"
    keys = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "NO_PROXY": "127.0.0.1"}
    with environment({**keys, "AWS_ENDPOINT_URL_S3": address}):
        client = S3Storage(attempts=2, operation_seconds=20)
        yield client, given
    client._client.close()
    listening.shutdown()
    listening.server_close()


@pytest.fixture
def client(server: tuple[S3Storage, Answer]) -> S3Storage:
    return server[0]


@pytest.fixture
def answer(server: tuple[S3Storage, Answer]) -> Answer:
    given = server[1]
    given.status, given.headers, given.body, given.requests = 200, {}, b"", 0
    return given


def operations(client: S3Storage) -> list[Callable[[], object]]:
    return [
        lambda: client.read_bytes(KEY),
        lambda: client.exists(KEY),
        lambda: client.list_files(KEY),
        lambda: client.write_bytes(KEY, b"data"),
        lambda: client.delete(KEY),
    ]


@pytest.mark.parametrize(
    ("status", "headers", "body"),
    [
        (200, {"Content-Type": "text/html"}, PAGE),
        (200, {"Content-Type": "text/html"}, XHTML),
        (200, {}, b""),
        (204, {}, b""),
        (403, {"Content-Type": "text/html"}, PAGE),
        (404, {"Content-Type": "text/html"}, PAGE),
        (302, {"Location": "/login"}, b""),
        (301, {"Location": "https://example.com/"}, b""),
        (307, {}, b""),
    ],
)
def test_an_answer_of_another_server_is_never_content(
    client: S3Storage, answer: Answer, status: int, headers: dict[str, str], body: bytes
) -> None:
    answer.status, answer.headers, answer.body = status, headers, body
    for operation in operations(client):
        answer.requests = 0
        with pytest.raises(StorageError, match="not the answer of an S3 server") as caught:
            operation()
        assert "AWS_ENDPOINT_URL_S3" in caught.value.repair
        assert answer.requests <= 2  # it is not retried


@pytest.mark.parametrize(
    ("status", "code", "message", "repair"),
    [
        (403, "RequestTimeTooSkewed", "The difference is too large.", "clocks"),
        (403, "SignatureDoesNotMatch", "Signature not yet current: 2026", "clocks"),
        (400, "ExpiredToken", "The provided token has expired.", "AWS_SESSION_TOKEN"),
        (400, "AuthorizationHeaderMalformed", "The region is wrong.", "AWS_REGION to eu-nl-1"),
        (403, "AccessDenied", "S3 API Requests must be made to API port.", "web console"),
        (400, "InvalidArgument", "S3 API Requests must be made to API port.", "web console"),
        (400, "EntityTooLarge", "Your upload exceeds the maximum.", "size limit"),
        (403, "InvalidObjectState", "It is archived.", "restore"),
        (400, "InvalidBucketName", "The bucket is not valid.", "letters, digits"),
        (400, "KeyTooLongError", "Your key is too long.", "shorter"),
        (405, "MethodNotAllowed", "Not allowed.", "supports this operation"),
        (400, "KMS.DisabledException", "The key is disabled.", "encrypts the bucket"),
        (400, "InvalidRequest", "Something else.", "server's log"),
        (403, "AccessDenied", "Access Denied.", "AWS_ACCESS_KEY_ID"),
        (403, "InvalidAccessKeyId", "It does not exist.", "AWS_ACCESS_KEY_ID"),
    ],
)
def test_each_refusal_has_its_own_repair(
    client: S3Storage, answer: Answer, status: int, code: str, message: str, repair: str
) -> None:
    answer.status, answer.headers = status, {"Content-Type": "application/xml"}
    answer.body = error(code, message, "<Region>eu-nl-1</Region>")
    for operation in operations(client):
        with pytest.raises(StorageError, match=code) as caught:
            operation()
        assert repair in caught.value.repair


def test_a_redirect_to_another_region_names_it(client: S3Storage, answer: Answer) -> None:
    answer.status, answer.headers = 301, {"x-amz-bucket-region": "eu-central-1"}
    answer.body = error("PermanentRedirect", "Use the specified endpoint.")
    for operation in operations(client):
        with pytest.raises(StorageError, match="301") as caught:
            operation()
        assert "AWS_REGION to eu-central-1" in caught.value.repair


def test_a_proxys_size_limit_is_named(client: S3Storage, answer: Answer) -> None:
    answer.status, answer.body = 413, b"<html><title>413 Request Entity Too Large</title></html>"
    with pytest.raises(StorageError, match="413") as caught:
        client.write_bytes(KEY, b"data")
    assert "client_max_body_size" in caught.value.repair


def test_an_operation_that_is_not_implemented_is_not_a_full_disk(
    client: S3Storage, answer: Answer
) -> None:
    answer.status, answer.body = 501, error("NotImplemented", "A header is not implemented.")
    with pytest.raises(StorageError, match="NotImplemented") as caught:
        client.write_bytes(KEY, b"data")
    assert type(caught.value) is StorageError
    assert "disk" not in caught.value.repair
    answer.status = 507
    with pytest.raises(StorageFullError):
        client.write_bytes(KEY, b"data")


def test_a_missing_bucket_is_not_called_a_missing_object(client: S3Storage, answer: Answer) -> None:
    answer.status, answer.body = 404, error("NoSuchBucket", "The bucket does not exist.")
    with pytest.raises(StorageNotFoundError) as caught:
        client.write_bytes(KEY, b"data")
    assert "create the bucket" in caught.value.repair


def test_an_etag_that_is_not_an_md5_digest_has_a_repair(client: S3Storage, answer: Answer) -> None:
    # SeaweedFS gives such an ETag to some objects that were uploaded in parts.
    answer.headers, answer.body = {"ETag": '"0123456789abcdef0123456789abcdef"'}, b"content"
    with pytest.raises(StorageError, match="MD5 is not its ETag") as caught:
        client.read_bytes(KEY)
    assert "ADVGRPO_S3_OPAQUE_ETAGS=true" in caught.value.repair


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ((True, "token", "1"), (True, "{requests}", "1"), "repeats a page"),
        ((True, "token", "1"), (False, "", ""), "announces more than 1 files and lists none"),
        ((True, "", "1"), (False, "", "2"), "not how to go on"),
        ((True, "token", ""), (True, "token", ""), "same next token was received twice"),
    ],
)
def test_a_listing_is_complete_or_an_error(
    client: S3Storage,
    answer: Answer,
    first: tuple[bool, str, str],
    second: tuple[bool, str, str],
    message: str,
) -> None:
    def page() -> bytes:
        is_first = "continuation-token" not in answer.path
        more, token, name = first if is_first else second
        token = token.format(requests=answer.requests)
        following = f"<NextContinuationToken>{token}</NextContinuationToken>" if token else ""
        file = f"<Key>a/key/{name}</Key><Size>1</Size><ETag>1</ETag>"
        listed = f"<Contents>{file}</Contents>" if name else ""
        result = f"<IsTruncated>{str(more).lower()}</IsTruncated>{listed}{following}"
        return f"<ListBucketResult>{result}</ListBucketResult>".encode()

    answer.body = page
    with pytest.raises(StorageError, match=message) as caught:
        client.list_files(KEY)
    assert "listings of many files" in caught.value.repair


@pytest.mark.parametrize("variable", ["AWS_REGION", "AWS_DEFAULT_REGION"])
def test_both_variables_of_the_region_are_read(
    variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "eu-nl-1")
    assert S3Storage()._client.meta.region_name == "eu-nl-1"
