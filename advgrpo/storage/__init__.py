"""Files and folders on local disks and S3 servers, and model weights wherever they lie."""

from advgrpo.storage.base import Storage, join, scheme
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
from advgrpo.storage.places import CACHE_VARIABLE, cache_folder, local_file, local_folder

__all__ = [
    "CACHE_VARIABLE",
    "COMMIT_FILE",
    "CommittedFile",
    "Storage",
    "cache_folder",
    "commit_of",
    "delete",
    "download_folder",
    "exists",
    "file_sha256",
    "join",
    "list_files",
    "local_file",
    "local_folder",
    "read_bytes",
    "scheme",
    "storage_for",
    "upload_folder",
    "write_bytes",
]
