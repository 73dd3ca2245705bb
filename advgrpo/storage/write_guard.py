"""Where on S3 this process may write."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from advgrpo.errors import ConfigError
from advgrpo.storage.base import scheme

WRITES_BELOW = "ADVGRPO_WRITE_PREFIX"
"""Environment variable with the `s3://` folder that all writes and deletions must be in; without
it, the S3 server alone decides. Processes that are started inherit it."""


def check_may_write(location: str) -> None:
    """Refuse to write outside of the folder that writes are confined to.

    Raises:
        ConfigError: If the location is elsewhere.
    """
    run_with_deadline = os.environ.get(WRITES_BELOW, "").rstrip("/")
    inside = f"{location.rstrip('/')}/".startswith(
        f"{run_with_deadline}/"
    ) and ".." not in location.split("/")
    if run_with_deadline and not inside:
        raise ConfigError(
            f"{location} may not be written: this process writes below {run_with_deadline} alone "
            f"({WRITES_BELOW})",
            repair="use a workspace inside that folder, or correct the variable",
        )


@contextmanager
def confined(location: str) -> Iterator[None]:
    """Let this process write below an `s3://` location alone while the block runs.

    Args:
        location: Must be inside the folder that writes are confined to already. A local path
            confines nothing.

    Raises:
        ConfigError: If it is not.
    """
    if scheme(location) != "s3":
        yield
        return
    check_may_write(location)
    before = os.environ.get(WRITES_BELOW)
    os.environ[WRITES_BELOW] = location
    try:
        yield
    finally:
        if before is None:
            del os.environ[WRITES_BELOW]
        else:
            os.environ[WRITES_BELOW] = before
