"""A limit on where this process may write remotely, besides the server's own permissions."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from advgrpo.errors import ConfigError
from advgrpo.storage.locations import scheme

WRITE_PREFIX = "ADVGRPO_WRITE_PREFIX"
"""Environment variable with the remote folder that all writes and deletions must be inside; if it
is unset, the server alone decides. Child processes inherit it."""


def check_may_write(location: str) -> None:
    """Check that a location is inside the folder that writes are restricted to.

    Raises:
        ConfigError: If it is outside.
    """
    prefix = os.environ.get(WRITE_PREFIX, "").rstrip("/")
    # S3 keys may contain "..", which other tools resolve.
    inside = f"{location.rstrip('/')}/".startswith(f"{prefix}/") and ".." not in location.split("/")
    if prefix and not inside:
        raise ConfigError(
            f"{WRITE_PREFIX}={prefix}: {location} is outside, so this process may not write it",
            repair=f"use a workspace inside {prefix}, or change {WRITE_PREFIX} (in the chart, "
            "s3.writePrefix)",
        )


@contextmanager
def restrict_writes(location: str) -> Iterator[None]:
    """Restrict this process's remote writes to a folder for the duration of the block.

    Args:
        location: A remote folder inside the present restriction; a local path restricts nothing.

    Raises:
        ConfigError: If it is outside the present restriction.
    """
    if not scheme(location):
        yield
        return
    check_may_write(location)
    before = os.environ.get(WRITE_PREFIX)
    os.environ[WRITE_PREFIX] = location
    try:
        yield
    finally:
        if before is None:
            del os.environ[WRITE_PREFIX]
        else:
            os.environ[WRITE_PREFIX] = before
