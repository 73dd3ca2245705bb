"""Files and folders on local disks and S3 servers, and model weights wherever they lie."""

from advgrpo.storage.base import FileState, Storage, is_local, join, scheme
from advgrpo.storage.cache import (
    CACHE_VARIABLE,
    LIMIT_VARIABLE,
    cache_folder,
    cached_folder,
    scratch_folder,
)
from advgrpo.storage.fetch import (
    fetched_name,
    local_file,
    local_files,
    local_folder,
)
from advgrpo.storage.files import (
    delete,
    exists,
    list_files,
    read_bytes,
    storage_for,
    write_bytes,
)
from advgrpo.storage.folders import (
    COMMIT_FILE,
    CommittedFile,
    commit_of,
    download_folder,
    file_sha256,
    upload_folder,
)
from advgrpo.storage.probe import check_writable
from advgrpo.storage.weights_hash import content_of, content_sha256
from advgrpo.storage.write_guard import WRITES_BELOW, confined

__all__ = [
    "CACHE_VARIABLE",
    "COMMIT_FILE",
    "LIMIT_VARIABLE",
    "WRITES_BELOW",
    "CommittedFile",
    "FileState",
    "Storage",
    "cache_folder",
    "cached_folder",
    "check_writable",
    "commit_of",
    "confined",
    "content_of",
    "content_sha256",
    "delete",
    "download_folder",
    "exists",
    "fetched_name",
    "file_sha256",
    "is_local",
    "join",
    "list_files",
    "local_file",
    "local_files",
    "local_folder",
    "read_bytes",
    "scheme",
    "scratch_folder",
    "storage_for",
    "upload_folder",
    "write_bytes",
]
