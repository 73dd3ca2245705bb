"""Sums of content, and what S3 servers say of them."""

import base64
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

_CHUNK = 2**20
_METADATA = "advgrpo-sha256"
"""Name of the metadata that keeps an object's SHA-256. Some servers forget it."""

_MD5_DIGITS = 32


@dataclass(frozen=True)
class Sums:
    """Sums of one content."""

    size: int
    sha256: str
    md5: bytes

    @property
    def content_md5(self) -> str:
        """The header by which a server sees whether it got what was sent."""
        return base64.b64encode(self.md5).decode()

    @property
    def metadata(self) -> dict[str, str]:
        """What is kept beside an object, so that a reader sees whether it got what was written."""
        return {_METADATA: self.sha256}


def sums_of(chunks: Iterable[bytes]) -> Sums:
    """Sum content that comes in pieces."""
    # Against damage, not against forgery: that is what https and credentials are for.
    sha256, md5, count = hashlib.sha256(), hashlib.md5(usedforsecurity=False), 0
    for chunk in chunks:
        sha256.update(chunk)
        md5.update(chunk)
        count += len(chunk)
    return Sums(count, sha256.hexdigest(), md5.digest())


def sums_of_file(path: Path) -> Sums:
    """Sum a file's content."""
    with path.open("rb") as file:
        return sums_of(iter(lambda: file.read(_CHUNK), b""))


def difference(found: Sums, answer: Mapping[str, object], *, etags_are_md5: bool) -> str:
    """Compare content with what the server says of it.

    An object of ours is compared with the SHA-256 that was kept when it was written. Others, and
    ours where the server forgot it, with their ETag, which is the MD5 sum of what was put in one
    piece without a key of the owner's.

    Args:
        found: Of the content that came.
        answer: What the server answered to the GET or HEAD.
        etags_are_md5: Whether the server's ETags of 32 digits are MD5 sums.

    Returns:
        How they differ; empty if they do not, or there is nothing to compare with.
    """
    length = answer.get("ContentLength")
    if length is not None and found.size != length:
        return f"{found.size} bytes of {length} came"
    metadata = answer.get("Metadata")
    kept = metadata if isinstance(metadata, Mapping) else {}
    for name, value in kept.items():
        if str(name).lower() == _METADATA:
            return "" if value == found.sha256 else "its content has another SHA-256 than was put"
    etag = str(answer.get("ETag", "")).strip('"').lower()
    owners_key = str(answer.get("ServerSideEncryption", "")).startswith("aws:kms") or answer.get(
        "SSECustomerAlgorithm"
    )
    if not etags_are_md5 or owners_key or len(etag) != _MD5_DIGITS or not etag.isalnum():
        return ""
    return "" if etag == found.md5.hex() else "its content is not what its ETag is the MD5 sum of"
