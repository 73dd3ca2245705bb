"""Objects on an S3 server: AWS, SeaweedFS, rclone or any other.

The only place that reaches S3. It relies on nothing beyond plain gets, puts, lists and deletes:
conditional writes are ignored by some servers, and metadata forgotten.
"""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

import boto3
import botocore.exceptions as faults
from botocore.config import Config

from advgrpo.errors import ConfigError, StorageError, StorageNotFoundError
from advgrpo.storage.base import FileState
from advgrpo.storage.checksums import Sums, difference, sums_of, sums_of_file
from advgrpo.storage.deadlines import Deadline, check_current, run_with_deadline
from advgrpo.storage.local import disk_errors, replaced_file
from advgrpo.storage.s3_errors import FAULTS, MISSING, DamagedError, explained, may_pass
from advgrpo.storage.s3_parts import Place, get_parts, put_parts, store
from advgrpo.storage.write_guard import check_may_write

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

T = TypeVar("T")

OPAQUE_ETAGS = "ADVGRPO_S3_OPAQUE_ETAGS"
"""Environment variable; `true` for a server whose ETags have 32 digits and are no MD5 sums."""

_CHUNK = 2**18
_DELETE_LIMIT = 1000
_FIRST_PAUSE_SECONDS = 0.1
# Slower than this is a fault.
_BYTES_PER_SECOND = 100_000


class S3Storage:
    """Objects on an S3 server.

    Endpoint, region, credentials and the certificates of the server's authority (`AWS_CA_BUNDLE`)
    come from the usual AWS variables and files. Each operation is tried again where that may help,
    and has an end: it succeeds with the right bytes or raises.

    Args:
        connect_timeout_seconds: Longest wait for a connection.
        read_timeout_seconds: Longest silence of the server within a request.
        attempts: How often a request is tried in all, and how often the whole operation is where
            content breaks off or comes damaged.
        operation_seconds: Longest time of an operation, besides what its bytes take at 100 kB/s.
        part_bytes: Larger files are copied in parts of this size.
    """

    def __init__(
        self,
        *,
        connect_timeout_seconds: float = 5.0,
        read_timeout_seconds: float = 60.0,
        attempts: int = 4,
        operation_seconds: float = 300.0,
        part_bytes: int = 64 * 2**20,
    ) -> None:
        config = Config(
            # rclone and others fail on the checksums that boto3 adds by default. Ours are plain
            # MD5 sums, which are as old as S3.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            s3={"addressing_style": "path"},
            retries={"mode": "standard", "total_max_attempts": attempts},
            connect_timeout=connect_timeout_seconds,
            read_timeout=read_timeout_seconds,
            max_pool_connections=32,
        )
        try:
            session = boto3.session.Session()
            region = session.region_name or "us-east-1"
            self._client: S3Client = session.client("s3", region_name=region, config=config)
        except (faults.BotoCoreError, ValueError) as error:
            raise StorageError(
                f"the settings of S3 access cannot be used: {error}",
                repair="correct the environment variables that start with AWS_",
            ) from error
        _check_endpoint(self._client.meta.endpoint_url)
        # What nobody waits for any more sends no further request.
        self._client.meta.events.register("before-send.s3", lambda **_: check_current())
        self._attempts = attempts
        self._operation_seconds = operation_seconds
        self._part_bytes = part_bytes
        self._etags_are_md5 = os.environ.get(OPAQUE_ETAGS, "").lower() != "true"

    def read_bytes(self, location: str) -> bytes:
        place = _place(location)

        def read(deadline: Deadline) -> bytes:
            answer = self._get(place, deadline)
            data = b"".join(iter(lambda: answer["Body"].read(_CHUNK), b""))
            self._check(sums_of([data]), answer)
            return data

        return self._done("read", location, read)

    def write_bytes(self, location: str, data: bytes) -> None:
        place = _place(location)
        check_may_write(location)
        sums = sums_of([data])

        def write(deadline: Deadline) -> None:
            deadline.allow(sums.size / _BYTES_PER_SECOND)
            self._put(place, data, sums)

        self._done("write", location, write)

    def upload_file(self, source: Path, location: str) -> None:
        place = _place(location)
        check_may_write(location)

        def upload(deadline: Deadline) -> None:
            sums = sums_of_file(source)
            deadline.allow(sums.size / _BYTES_PER_SECOND)
            if sums.size > self._part_bytes:
                put_parts(self._client, place, source, sums, self._part_bytes, deadline)
                return
            with source.open("rb") as file:
                self._put(place, file, sums)

        with disk_errors("read", source):
            self._done("write", location, upload)

    def download_file(self, location: str, target: Path) -> None:
        place = _place(location)
        with replaced_file(target) as fresh:

            def download(deadline: Deadline) -> None:
                # Another file: a thread of an attempt that was given up may still write its own.
                fresh.unlink(missing_ok=True)
                fresh.touch()
                answer = self._get(place, deadline)
                if answer["ContentLength"] > self._part_bytes:
                    answer["Body"].close()
                    get_parts(self._client, place, fresh, answer, self._part_bytes, deadline)
                else:
                    store(answer, fresh, 0, deadline)
                self._check(sums_of_file(fresh), answer)

            self._done("read", location, download)

    def exists(self, location: str) -> bool:
        bucket, key = _place(location)

        def look(_deadline: Deadline) -> None:
            self._client.head_object(Bucket=bucket, Key=key)

        try:
            self._done("look up", location, look)
        except StorageNotFoundError:
            return False
        return True

    def list_files(self, location: str) -> dict[str, FileState]:
        bucket, key = _place(location)
        prefix = f"{key}/" if key else ""

        def listed(deadline: Deadline) -> dict[str, FileState]:
            found: dict[str, FileState] = {}
            pages = self._client.get_paginator("list_objects_v2")
            for page in pages.paginate(Bucket=bucket, Prefix=prefix):
                deadline.allow(self._operation_seconds / 10)
                for item in page.get("Contents", []):
                    if not item["Key"].startswith(prefix):
                        raise DamagedError(f"the server lists {item['Key']!r}, which is elsewhere")
                    name = item["Key"].removeprefix(prefix)
                    # Some tools make empty objects that stand for folders.
                    if name and not name.endswith("/"):
                        found[name] = FileState(item["Size"], item["ETag"])
            return dict(sorted(found.items()))

        try:
            return self._done("list", location, listed)
        except StorageNotFoundError:
            return {}

    def delete(self, location: str) -> None:
        bucket, key = _place(location)
        check_may_write(location)
        prefix = f"{key}/" if key else ""
        keys = [prefix + name for name in self.list_files(location)] + ([key] if key else [])
        for start in range(0, len(keys), _DELETE_LIMIT):
            batch = keys[start : start + _DELETE_LIMIT]
            answer = self._done("delete", location, partial(self._delete, bucket, batch))
            refused = [e for e in answer.get("Errors", []) if e.get("Code") not in MISSING]
            if refused:
                raise StorageError(
                    f"cannot delete s3://{bucket}/{refused[0].get('Key')}: "
                    f"{refused[0].get('Message')}",
                    repair="check that the credentials may delete objects",
                )

    def _delete(self, bucket: str, keys: list[str], _deadline: Deadline) -> Any:  # noqa: ANN401
        return self._client.delete_objects(
            Bucket=bucket, Delete={"Objects": [{"Key": key} for key in keys], "Quiet": True}
        )

    def _get(self, place: Place, deadline: Deadline) -> Any:  # noqa: ANN401
        answer = self._client.get_object(Bucket=place.bucket, Key=place.key)
        deadline.allow(answer["ContentLength"] / _BYTES_PER_SECOND)
        return answer

    def _put(self, place: Place, body: bytes | IO[bytes], sums: Sums) -> None:
        self._client.put_object(
            Bucket=place.bucket,
            Key=place.key,
            Body=body,
            ContentLength=sums.size,
            ContentMD5=sums.content_md5,
            Metadata=sums.metadata,
        )

    def _check(self, found: Sums, answer: Any) -> None:  # noqa: ANN401
        if problem := difference(found, answer, etags_are_md5=self._etags_are_md5):
            raise DamagedError(problem)

    def _done(self, action: str, location: str, work: Callable[[Deadline], T]) -> T:
        try:
            deadline = Deadline(self._operation_seconds)
            return run_with_deadline(deadline, [partial(self._tried, work)])[0]
        except FAULTS as error:
            where = f"{location} at {self._client.meta.endpoint_url}"
            raise explained(error, f"cannot {action} {where}") from error

    def _tried(self, work: Callable[[Deadline], T], deadline: Deadline) -> T:
        """Do the whole work again where botocore, which tries requests again, cannot help."""
        pause = _FIRST_PAUSE_SECONDS
        for _ in range(self._attempts - 1):
            try:
                return _understood(work, deadline)
            except FAULTS as error:
                if not may_pass(error):
                    raise
                deadline.wait(pause)
                deadline.check()
                pause *= 2
        return _understood(work, deadline)


def _understood(work: Callable[[Deadline], T], deadline: Deadline) -> T:
    try:
        return work(deadline)
    except (LookupError, TypeError, ValueError) as error:
        # Of an answer whose fields are missing or cannot be read.
        raise DamagedError(
            f"the server's answer cannot be understood: {type(error).__name__}: {error}"
        ) from error


def _place(location: str) -> Place:
    bucket, _, key = location.removeprefix("s3://").partition("/")
    if not location.startswith("s3://") or not bucket or "@" in bucket:
        raise ConfigError(
            f"{location!r} is not an S3 location", repair="write s3://bucket/folder/name"
        )
    return Place(bucket, key.rstrip("/"))


def _check_endpoint(endpoint: str) -> None:
    if "@" in urlsplit(endpoint).netloc:
        raise ConfigError(
            "the address of the S3 server holds a user or a password, which would get into logs",
            repair="leave them out of AWS_ENDPOINT_URL_S3; set AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY",
        )
