"""The backend for S3 servers: AWS, SeaweedFS, rclone or any other.

No other module accesses S3. It relies on plain gets, puts, lists and deletes alone, because some
servers ignore conditional writes or drop metadata.
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
from advgrpo.storage.checksums import (
    OPAQUE_ETAGS,
    Checksums,
    DamagedError,
    checksums,
    file_checksums,
    find_mismatch,
)
from advgrpo.storage.credentials import S3_REQUIRED_KEYS
from advgrpo.storage.deadlines import Deadline, check_current, run_with_deadline
from advgrpo.storage.local import atomic_file, disk_errors
from advgrpo.storage.s3_answers import check_answers, head_object
from advgrpo.storage.s3_errors import FAULTS, MISSING, describe_error, is_transient
from advgrpo.storage.s3_listing import list_objects
from advgrpo.storage.s3_parts import ObjectKey, download_parts, upload_parts, write_body
from advgrpo.storage.write_guard import check_may_write

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

T = TypeVar("T")

_CHUNK = 2**18
# DeleteObjects accepts at most 1000 keys.
_DELETE_LIMIT = 1000
_FIRST_PAUSE_SECONDS = 0.1
# The slowest transfer that is not a failure.
_BYTES_PER_SECOND = 100_000


class S3Storage:
    """Objects on an S3 server.

    Endpoint, region, credentials and the certificates of the server's authority (`AWS_CA_BUNDLE`)
    come from the usual AWS variables and files. Each operation retries transient errors, and has a
    deadline: it returns the right bytes or raises.

    Args:
        connect_timeout_seconds: Timeout of a connection.
        read_timeout_seconds: Timeout between two packets of a response.
        attempts: Attempts at a request, and at a whole operation whose content is truncated or
            damaged.
        operation_seconds: Timeout of an operation, in addition to the time that its bytes take at
            100 kB/s.
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
            # rclone and others fail on the checksums that boto3 adds by default. Content-MD5 is as
            # old as S3.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            # Most servers other than AWS have no DNS names for buckets.
            s3={"addressing_style": "path"},
            retries={"mode": "standard", "total_max_attempts": attempts},
            connect_timeout=connect_timeout_seconds,
            read_timeout=read_timeout_seconds,
            # Folders copy 8 files at once, large ones in 4 parts each.
            max_pool_connections=32,
        )
        try:
            session = boto3.session.Session()
            # boto3 reads AWS_DEFAULT_REGION alone, unlike other clients of AWS, and requires a
            # region even for servers that have none.
            region = os.environ.get("AWS_REGION") or session.region_name or "us-east-1"
            self._client: S3Client = session.client("s3", region_name=region, config=config)
        except (faults.BotoCoreError, ValueError) as error:
            raise StorageError(
                f"the environment variables AWS_* are invalid: {error}",
                repair="set AWS_ENDPOINT_URL_S3 to an http:// or https:// address, and AWS_PROFILE "
                "and AWS_CA_BUNDLE, if set, to what exists",
            ) from error
        _check_endpoint(self._client.meta.endpoint_url)
        # An abandoned thread must not send further requests.
        self._client.meta.events.register("before-send.s3", lambda **_: check_current())
        check_answers(self._client)
        self._attempts = attempts
        self._operation_seconds = operation_seconds
        self._part_bytes = part_bytes
        self._etags_are_md5 = os.environ.get(OPAQUE_ETAGS, "").lower() != "true"

    def read_bytes(self, location: str) -> bytes:
        key = _parse(location)

        def read(deadline: Deadline) -> bytes:
            answer = self._get(key, deadline)
            data = b"".join(iter(lambda: answer["Body"].read(_CHUNK), b""))
            self._check(checksums([data]), answer)
            return data

        return self._run("read", location, read)

    def write_bytes(self, location: str, data: bytes) -> None:
        key = _parse(location)
        check_may_write(location)
        # Outside of the deadline: hashing the content takes no time of the server.
        sums = checksums([data])

        def write(deadline: Deadline) -> None:
            deadline.extend(sums.size / _BYTES_PER_SECOND)
            self._put(key, data, sums)

        self._run("write", location, write)

    def upload_file(self, source: Path, location: str) -> None:
        key = _parse(location)
        check_may_write(location)

        def upload(deadline: Deadline) -> None:
            sums = file_checksums(source)
            deadline.extend(sums.size / _BYTES_PER_SECOND)
            if sums.size > self._part_bytes:
                upload_parts(self._client, key, source, sums, self._part_bytes, deadline)
                return
            with source.open("rb") as file:
                self._put(key, file, sums)

        with disk_errors("read", source):
            self._run("write", location, upload)

    def download_file(self, location: str, target: Path) -> None:
        key = _parse(location)
        with atomic_file(target) as fresh:

            def download(deadline: Deadline) -> None:
                # A new inode: an abandoned thread may still write the old one.
                fresh.unlink(missing_ok=True)
                fresh.touch()
                answer = self._get(key, deadline)
                # The body of the whole is not needed: parts are requested in parallel.
                if answer["ContentLength"] > self._part_bytes:
                    answer["Body"].close()
                    download_parts(self._client, key, fresh, answer, self._part_bytes, deadline)
                else:
                    write_body(answer, fresh, 0, deadline)
                self._check(file_checksums(fresh), answer)

            self._run("read", location, download)

    def exists(self, location: str) -> bool:
        key = _parse(location)
        try:
            self._run("look up", location, lambda _: head_object(self._client, key))
        except StorageNotFoundError:
            return False
        return True

    def list_files(self, location: str) -> dict[str, FileState]:
        bucket, key = _parse(location)
        prefix = f"{key}/" if key else ""

        def list_pages(deadline: Deadline) -> dict[str, FileState]:
            files: dict[str, FileState] = {}

            def go_on() -> None:
                # Each page with new files proves progress; their number is not known in advance.
                deadline.extend(self._operation_seconds / 10)

            for item in list_objects(self._client, ObjectKey(bucket, prefix), go_on):
                # A corrupted answer would otherwise name files outside of the folder.
                if not item["Key"].startswith(prefix):
                    raise DamagedError(f"the server lists {item['Key']!r}, which is outside")
                name = item["Key"].removeprefix(prefix)
                # Some tools create empty objects as folders.
                if name and not name.endswith("/"):
                    files[name] = FileState(item["Size"], item["ETag"])
            return dict(sorted(files.items()))

        try:
            return self._run("list", location, list_pages)
        except StorageNotFoundError:
            return {}

    def delete(self, location: str) -> None:
        bucket, key = _parse(location)
        check_may_write(location)
        prefix = f"{key}/" if key else ""
        # S3 has no folders: delete the object of this name and all objects below it.
        keys = [prefix + name for name in self.list_files(location)] + ([key] if key else [])
        for start in range(0, len(keys), _DELETE_LIMIT):
            batch = keys[start : start + _DELETE_LIMIT]
            answer = self._run("delete", location, partial(self._delete, bucket, batch))
            # DeleteObjects answers 200 even if single objects were refused.
            refused = [e for e in answer.get("Errors", []) if e.get("Code") not in MISSING]
            if refused:
                raise StorageError(
                    f"cannot delete s3://{bucket}/{refused[0].get('Key')}: "
                    f"{refused[0].get('Message')}",
                    repair="give the owner of the credentials the permission s3:DeleteObject",
                )

    def _delete(self, bucket: str, keys: list[str], _deadline: Deadline) -> Any:  # noqa: ANN401
        return self._client.delete_objects(
            Bucket=bucket, Delete={"Objects": [{"Key": key} for key in keys], "Quiet": True}
        )

    def _get(self, key: ObjectKey, deadline: Deadline) -> Any:  # noqa: ANN401
        answer = self._client.get_object(Bucket=key.bucket, Key=key.key)
        deadline.extend(answer["ContentLength"] / _BYTES_PER_SECOND)
        return answer

    def _put(self, key: ObjectKey, body: bytes | IO[bytes], sums: Checksums) -> None:
        self._client.put_object(
            Bucket=key.bucket,
            Key=key.key,
            Body=body,
            ContentLength=sums.size,
            ContentMD5=sums.content_md5,
            Metadata=sums.metadata,
        )

    def _check(self, received: Checksums, answer: Any) -> None:  # noqa: ANN401
        if problem := find_mismatch(received, answer, etags_are_md5=self._etags_are_md5):
            raise DamagedError(problem)

    def _run(self, action: str, location: str, work: Callable[[Deadline], T]) -> T:
        try:
            deadline = Deadline(self._operation_seconds)
            return run_with_deadline(deadline, [partial(self._retry, work)])[0]
        except FAULTS as error:
            action = f"cannot {action} {location} at {self._client.meta.endpoint_url}"
            raise describe_error(error, action) from error

    def _retry(self, work: Callable[[Deadline], T], deadline: Deadline) -> T:
        """Retry the whole operation for errors that botocore's retries of requests cannot fix."""
        pause = _FIRST_PAUSE_SECONDS
        for _ in range(self._attempts - 1):
            try:
                return _call(work, deadline)
            except FAULTS as error:
                if not is_transient(error):
                    raise
                deadline.wait(pause)
                deadline.check()
                pause *= 2
        return _call(work, deadline)


def _call(work: Callable[[Deadline], T], deadline: Deadline) -> T:
    try:
        return work(deadline)
    except (LookupError, TypeError, ValueError) as error:
        # Raised for an answer with missing or malformed fields.
        raise DamagedError(
            f"the server's answer cannot be parsed: {type(error).__name__}: {error}"
        ) from error


def _parse(location: str) -> ObjectKey:
    bucket, _, key = location.removeprefix("s3://").partition("/")
    if not location.startswith("s3://") or not bucket or "@" in bucket:
        raise ConfigError(
            f"{location!r} is not an S3 location", repair="write s3://bucket/folder/name"
        )
    # Without a trailing slash, which would name another object.
    return ObjectKey(bucket, key.rstrip("/"))


def _check_endpoint(endpoint: str) -> None:
    if "@" in urlsplit(endpoint).netloc:
        raise ConfigError(
            "AWS_ENDPOINT_URL_S3 contains a user or a password, which would appear in logs",
            repair="remove them, and set " + " and ".join(S3_REQUIRED_KEYS),
        )
