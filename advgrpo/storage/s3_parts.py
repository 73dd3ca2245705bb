"""Large objects on S3, copied in parts."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from s3transfer.utils import ReadFileChunk

from advgrpo.storage.checksums import Sums, sums_of
from advgrpo.storage.deadlines import Deadline, run_with_deadline
from advgrpo.storage.s3_errors import FAULTS, DamagedError

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

T = TypeVar("T")

_CHUNK = 2**18
_THREADS = 4
_MOST_PARTS = 10_000
_ABORT_SECONDS = 10.0


class Place(NamedTuple):
    """Where an object lies."""

    bucket: str
    key: str


class _Part(NamedTuple):
    start: int
    size: int


def put_parts(
    client: "S3Client", place: Place, source: Path, sums: Sums, part_bytes: int, deadline: Deadline
) -> None:
    """Write a file as an object, in parts; it is there when all of them are."""
    started = client.create_multipart_upload(
        Bucket=place.bucket, Key=place.key, Metadata=sums.metadata
    )
    named: Any = {"Bucket": place.bucket, "Key": place.key, "UploadId": started["UploadId"]}

    # No look at the deadline: what is given up sends no request, and nothing else is changed here.
    def put(number: int, part: _Part, _deadline: Deadline) -> Any:  # noqa: ANN401 - boto3's
        body: Any
        with ReadFileChunk.from_filename(str(source), part.start, part.size) as body:
            content = sums_of(iter(lambda: body.read(_CHUNK), b""))
            body.seek(0)
            answer = client.upload_part(
                **named, PartNumber=number, Body=body, ContentMD5=content.content_md5
            )
        return {"PartNumber": number, "ETag": answer["ETag"]}

    try:
        done = _each(_parts(sums.size, part_bytes), put, deadline)
        client.complete_multipart_upload(**named, MultipartUpload={"Parts": done})
    except BaseException:
        # What is left of it costs room; a lifecycle rule of the server should remove what stays.
        with suppress(*FAULTS):
            run_with_deadline(
                Deadline(_ABORT_SECONDS), [lambda _: client.abort_multipart_upload(**named)]
            )
        raise


def get_parts(
    client: "S3Client",
    place: Place,
    target: Path,
    whole: Mapping[str, Any],
    part_bytes: int,
    deadline: Deadline,
) -> None:
    """Write an object into a file that is there, in parts.

    Args:
        client: Reaches the server.
        place: The object.
        target: The file.
        whole: What the server answered when asked for all of it.
        part_bytes: Size of a part.
        deadline: When it must be done.

    Raises:
        DamagedError: If the object changes meanwhile, or a part has another length.
    """

    def get(_number: int, part: _Part, deadline: Deadline) -> None:
        last = part.start + part.size - 1
        answer = client.get_object(
            Bucket=place.bucket, Key=place.key, Range=f"bytes={part.start}-{last}"
        )
        if answer["ETag"] != whole["ETag"] or answer["ContentLength"] != part.size:
            answer["Body"].close()
            raise DamagedError("it changed while it was read, or the server gave other bytes")
        store(answer, target, part.start, deadline)

    _each(_parts(whole["ContentLength"], part_bytes), get, deadline)


def store(answer: Mapping[str, Any], target: Path, start: int, deadline: Deadline) -> None:
    """Write the content of an answer into a file that is there."""
    # Opened so that a thread which nobody waits for does not make the file anew.
    with target.open("r+b") as file:
        file.seek(start)
        while chunk := answer["Body"].read(_CHUNK):
            deadline.check()
            file.write(chunk)


def _parts(size: int, part_bytes: int) -> list[_Part]:
    step = max(part_bytes, -(-size // _MOST_PARTS))
    return [_Part(start, min(step, size - start)) for start in range(0, size, step)]


def _each(
    parts: list[_Part], do: Callable[[int, _Part, Deadline], T], deadline: Deadline
) -> list[T]:
    works = [partial(do, number, part) for number, part in enumerate(parts, start=1)]
    return run_with_deadline(deadline, works, threads=_THREADS)
