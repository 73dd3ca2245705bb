"""Locations as strings: local paths and `s3://`, `hub://` and `package://` URIs."""

from advgrpo.config.base import find_malformed
from advgrpo.errors import ConfigError


def scheme(location: str) -> str:
    """Return the scheme of a location: `s3`, `package`, `hub`, or empty for a local path.

    Raises:
        ConfigError: If it is neither a path nor a URI, such as `s3:/bucket/key`.
    """
    # Otherwise it would be a folder named `s3:` on this machine.
    if problem := find_malformed(location):
        raise ConfigError(problem, repair="correct the location")
    head, separator, _ = location.partition("://")
    return head if separator else ""


def is_local(location: str) -> bool:
    """Return whether a location is a path on this machine rather than a URI."""
    return not scheme(location)


def join(location: str, *names: str) -> str:
    """Return the location of something inside a folder.

    Args:
        location: Local path or URI of the folder.
        names: Relative names, with forward slashes; empty ones are skipped.

    Raises:
        ConfigError: If a name leads out of the folder.
    """
    for name in names:
        # Names come from files of others: listings, commit files, archives.
        if name.startswith("/") or ".." in name.split("/") or "\0" in name:
            raise ConfigError(
                f"{name!r} leads out of {location}", repair="use a name inside the folder"
            )
    inner = [name.strip("/") for name in names if name.strip("/")]
    return "/".join([location.rstrip("/"), *inner]) or "/"
