"""Objects on an S3 server: AWS, SeaweedFS, rclone or any other.

It relies on nothing beyond plain gets, puts, lists and deletes: conditional writes and user
metadata are ignored or lost by some servers.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
import botocore.exceptions as faults
import urllib3.exceptions
from boto3.exceptions import Boto3Error, S3UploadFailedError
from boto3.s3.transfer import TransferConfig
from botocore.config import Config

from advgrpo.errors import (
    ConfigError,
    StorageError,
    StorageFullError,
    StorageNotFoundError,
    StorageUnavailableError,
)
from advgrpo.storage.base import FileState
from advgrpo.storage.local import disk_errors, replaced_file

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_MISSING = {"NoSuchKey", "NoSuchBucket", "404", "NotFound"}
_NO_ROOM = {"InsufficientStorage", "XMinioStorageFull", "QuotaExceeded"}
_BUSY_STATUS = 429
_NO_ROOM_STATUS = 507
_SERVER_FAULT = 500
_DELETE_LIMIT = 1000


class S3Storage:
    """Objects on an S3 server.

    Endpoint, region and credentials come from the usual AWS variables and files.

    Args:
        connect_timeout_seconds: Longest wait for a connection.
        read_timeout_seconds: Longest silence of the server within a request.
        attempts: How often a request is tried in all.
    """

    def __init__(
        self,
        *,
        connect_timeout_seconds: float = 5.0,
        read_timeout_seconds: float = 60.0,
        attempts: int = 4,
    ) -> None:
        config = Config(
            # rclone and others fail on the checksums that boto3 adds by default.
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
        self._transfer = TransferConfig(
            multipart_threshold=64 * 2**20, multipart_chunksize=64 * 2**20, max_concurrency=4
        )

    def read_bytes(self, location: str) -> bytes:
        bucket, key = _bucket_and_key(location)
        with self._errors("read", location):
            return self._client.get_object(Bucket=bucket, Key=key)["Body"].read()

    def write_bytes(self, location: str, data: bytes) -> None:
        bucket, key = _bucket_and_key(location)
        with self._errors("write", location):
            self._client.put_object(Bucket=bucket, Key=key, Body=data)

    def upload_file(self, source: Path, location: str) -> None:
        bucket, key = _bucket_and_key(location)
        with self._errors("write", location), disk_errors("read", source):
            self._client.upload_file(str(source), bucket, key, Config=self._transfer)

    def download_file(self, location: str, target: Path) -> None:
        bucket, key = _bucket_and_key(location)
        with replaced_file(target) as partial, self._errors("read", location):
            self._client.download_file(bucket, key, str(partial), Config=self._transfer)

    def exists(self, location: str) -> bool:
        bucket, key = _bucket_and_key(location)
        try:
            with self._errors("look up", location):
                self._client.head_object(Bucket=bucket, Key=key)
        except StorageNotFoundError:
            return False
        return True

    def list_files(self, location: str) -> dict[str, FileState]:
        bucket, key = _bucket_and_key(location)
        prefix = f"{key}/" if key else ""
        found: dict[str, FileState] = {}
        pages = self._client.get_paginator("list_objects_v2")
        try:
            with self._errors("list", location):
                for page in pages.paginate(Bucket=bucket, Prefix=prefix):
                    for item in page.get("Contents", []):
                        name = item["Key"].removeprefix(prefix)
                        # Some tools make empty objects that stand for folders.
                        if name and not name.endswith("/"):
                            found[name] = FileState(item["Size"], item["ETag"])
        except StorageNotFoundError:
            return {}
        return dict(sorted(found.items()))

    def delete(self, location: str) -> None:
        bucket, key = _bucket_and_key(location)
        prefix = f"{key}/" if key else ""
        keys = [prefix + name for name in self.list_files(location)] + ([key] if key else [])
        for start in range(0, len(keys), _DELETE_LIMIT):
            batch = keys[start : start + _DELETE_LIMIT]
            with self._errors("delete", location):
                answer = self._client.delete_objects(
                    Bucket=bucket, Delete={"Objects": [{"Key": k} for k in batch], "Quiet": True}
                )
            refused = [e for e in answer.get("Errors", []) if e.get("Code") not in _MISSING]
            if refused:
                raise StorageError(
                    f"cannot delete s3://{bucket}/{refused[0].get('Key')}: "
                    f"{refused[0].get('Message')}",
                    repair="check that the credentials may delete objects",
                )

    @contextmanager
    def _errors(self, action: str, location: str) -> Iterator[None]:
        try:
            yield
        except (
            faults.BotoCoreError,
            faults.ClientError,
            Boto3Error,
            urllib3.exceptions.HTTPError,
        ) as error:
            where = f"{location} at {self._client.meta.endpoint_url}"
            raise _explained(error, f"cannot {action} {where}") from error


def _bucket_and_key(location: str) -> tuple[str, str]:
    bucket, _, key = location.removeprefix("s3://").partition("/")
    if not location.startswith("s3://") or not bucket:
        raise ConfigError(
            f"{location!r} is not an S3 location", repair="write s3://bucket/folder/name"
        )
    return bucket, key.rstrip("/")


def _explained(error: Exception, what: str) -> StorageError:
    # boto3's transfers wrap the error that tells what happened.
    if isinstance(error, S3UploadFailedError) and isinstance(error.__context__, Exception):
        error = error.__context__
    if isinstance(error, faults.ClientError):
        return _explained_answer(error, what)
    if isinstance(error, faults.NoCredentialsError | faults.PartialCredentialsError):
        return StorageError(
            f"{what}: no credentials", repair="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        )
    if isinstance(error, faults.ParamValidationError):
        return StorageError(f"{what}: {error}", repair="check the location")
    return StorageUnavailableError(
        f"{what}: {error}",
        repair="check that the server runs and that AWS_ENDPOINT_URL_S3 is right, then run again",
    )


def _explained_answer(error: faults.ClientError, what: str) -> StorageError:
    code = error.response.get("Error", {}).get("Code", "")
    text = error.response.get("Error", {}).get("Message", "") or code
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    message = f"{what}: the server answers {status} {code}: {text}"
    if status == _NO_ROOM_STATUS or code in _NO_ROOM or "no space left" in text.lower():
        return StorageFullError(message, repair="free space on the server, then run again")
    if code in _MISSING:
        return StorageNotFoundError(message, repair="check bucket and name")
    if status >= _SERVER_FAULT or status == _BUSY_STATUS or code == "SlowDown":
        return StorageUnavailableError(
            message, repair="read the server's log (its disk may be full), then run again"
        )
    return StorageError(
        message,
        repair="check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, and what their owner may do",
    )
