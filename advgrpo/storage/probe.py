"""An early check that a location can be written."""

import uuid

from advgrpo.errors import StorageError
from advgrpo.storage.base import PARTIAL_PREFIX
from advgrpo.storage.files import delete, read_bytes, write_bytes
from advgrpo.storage.locations import join


def check_writable(location: str) -> None:
    """Write, read and delete a small file below a location.

    Args:
        location: Local path or `s3://` location of a folder, which need not exist.

    Raises:
        StorageUnavailableError: If the server does not answer.
        StorageError: If the file cannot be written, read back unchanged, or deleted.
        ConfigError: If nothing can be written to such a location.
    """
    # Listings of a local folder skip this prefix; in those of S3 the probe appears for a moment.
    probe = join(location, f"{PARTIAL_PREFIX}probe-{uuid.uuid4().hex}")
    content = uuid.uuid4().bytes
    write_bytes(probe, content)
    try:
        if read_bytes(probe) != content:
            raise StorageError(
                f"{location} returns other content than was just written",
                repair="use a server with read-after-write consistency, and no cache in front of "
                "it",
            )
    finally:
        delete(probe)
