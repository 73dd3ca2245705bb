"""Files and folders on local disks and S3 servers.

`fetch` and `weights_hash` are imported by name: the rest of the package needs neither of them.
"""

from advgrpo.storage.base import FileState, Storage
from advgrpo.storage.cache import (
    CACHE_VARIABLE,
    LIMIT_VARIABLE,
    cache_folder,
    cached_folder,
    scratch_folder,
)
from advgrpo.storage.files import (
    delete,
    exists,
    is_remote,
    list_files,
    read_bytes,
    storage_for,
    write_bytes,
)
from advgrpo.storage.folders import (
    COMMIT_FILE,
    CommittedFile,
    download_folder,
    read_commit,
    upload_folder,
)
from advgrpo.storage.local import file_sha256
from advgrpo.storage.locations import is_local, join, scheme
from advgrpo.storage.probe import check_writable
from advgrpo.storage.write_guard import WRITE_PREFIX, restrict_writes

__all__ = [
    "CACHE_VARIABLE",
    "COMMIT_FILE",
    "LIMIT_VARIABLE",
    "WRITE_PREFIX",
    "CommittedFile",
    "FileState",
    "Storage",
    "cache_folder",
    "cached_folder",
    "check_writable",
    "delete",
    "download_folder",
    "exists",
    "file_sha256",
    "is_local",
    "is_remote",
    "join",
    "list_files",
    "read_bytes",
    "read_commit",
    "restrict_writes",
    "scheme",
    "scratch_folder",
    "storage_for",
    "upload_folder",
    "write_bytes",
]
