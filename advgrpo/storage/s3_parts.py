"""Multipart uploads and ranged downloads of large S3 objects."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from s3transfer.utils import ReadFileChunk

from advgrpo.storage.checksums import Checksums, DamagedError, checksums
from advgrpo.storage.deadlines import Deadline, run_with_deadline

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

T = TypeVar("T")

_CHUNK = 2**18
_THREADS = 4
_MOST_PARTS = 10_000
_ABORT_SECONDS = 10.0


class ObjectKey(NamedTuple):
    """Bucket and key of an object."""

    bucket: str
    key: str


class _Part(NamedTuple):
    start: int
    size: int


def upload_parts(
    client: "S3Client",
    key: ObjectKey,
    source: Path,
    sums: Checksums,
    part_bytes: int,
    deadline: Deadline,
) -> None:
    """Upload a file in parts; the object appears when all of them are complete."""
    upload = client.create_multipart_upload(Bucket=key.bucket, Key=key.key, Metadata=sums.metadata)
    named: Any = {"Bucket": key.bucket, "Key": key.key, "UploadId": upload["UploadId"]}

    # No deadline check: an abandoned thread sends no further request, and changes nothing else.
    def put(number: int, part: _Part, _deadline: Deadline) -> Any:  # noqa: ANN401 - boto3's
        body: Any
        with ReadFileChunk.from_filename(str(source), part.start, part.size) as body:
            content = checksums(iter(lambda: body.read(_CHUNK), b""))
            body.seek(0)
            answer = client.upload_part(
                **named, PartNumber=number, Body=body, ContentMD5=content.content_md5
            )
        return {"PartNumber": number, "ETag": answer["ETag"]}

    try:
        # In the order of part numbers, as S3 requires.
        done = _for_each(_parts(sums.size, part_bytes), put, deadline)
        client.complete_multipart_upload(**named, MultipartUpload={"Parts": done})
    except BaseException:
        # Parts of an unfinished upload take space; a lifecycle rule should remove those that an
        # unreachable server keeps. The upload's own error must not be replaced by this one's.
        with suppress(Exception):
            run_with_deadline(
                Deadline(_ABORT_SECONDS), [lambda _: client.abort_multipart_upload(**named)]
            )
        raise


def download_parts(
    client: "S3Client",
    key: ObjectKey,
    target: Path,
    head: Mapping[str, Any],
    part_bytes: int,
    deadline: Deadline,
) -> None:
    """Download an object into an existing file, in parts.

    Args:
        client: Client of the server.
        key: The object.
        target: The file.
        head: The server's answer to a request for the whole object.
        part_bytes: Size of a part.
        deadline: Deadline of the download.

    Raises:
        DamagedError: If the object changes meanwhile, or a part has another length.
    """

    def get(_number: int, part: _Part, deadline: Deadline) -> None:
        # The end of an HTTP range is inclusive.
        last = part.start + part.size - 1
        answer = client.get_object(
            Bucket=key.bucket, Key=key.key, Range=f"bytes={part.start}-{last}"
        )
        # Parts of two versions would otherwise be mixed.
        if answer["ETag"] != head["ETag"] or answer["ContentLength"] != part.size:
            answer["Body"].close()
            raise DamagedError("it changed during the download, or the server ignores ranges")
        write_body(answer, target, part.start, deadline)

    _for_each(_parts(head["ContentLength"], part_bytes), get, deadline)


def write_body(answer: Mapping[str, Any], target: Path, start: int, deadline: Deadline) -> None:
    """Write the body of an answer into an existing file."""
    # Not mode "w": an abandoned thread must not create again a file that was deleted.
    with target.open("r+b") as file:
        file.seek(start)
        while chunk := answer["Body"].read(_CHUNK):
            deadline.check()
            file.write(chunk)


def _parts(size: int, part_bytes: int) -> list[_Part]:
    # S3 refuses more parts, so those of very large files are larger.
    step = max(part_bytes, -(-size // _MOST_PARTS))
    return [_Part(start, min(step, size - start)) for start in range(0, size, step)]


def _for_each(
    parts: list[_Part], do: Callable[[int, _Part, Deadline], T], deadline: Deadline
) -> list[T]:
    calls = [partial(do, number, part) for number, part in enumerate(parts, start=1)]
    return run_with_deadline(deadline, calls, threads=_THREADS)
