"""Checksums of content, and their comparison with what an S3 server reports."""

import base64
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

OPAQUE_ETAGS = "ADVGRPO_S3_OPAQUE_ETAGS"
"""Environment variable; `true` for a server whose ETags of 32 digits are not MD5 digests."""

_CHUNK = 2**20
_METADATA = "advgrpo-sha256"
"""Key of the object metadata that holds the SHA-256. Some servers drop metadata."""

_MD5_DIGITS = 32


class DamagedError(Exception):
    """Content that differs from what was written, or an answer that cannot be parsed."""


@dataclass(frozen=True)
class Checksums:
    """Size and digests of one content."""

    size: int
    sha256: str
    md5: bytes

    @property
    def content_md5(self) -> str:
        """Value of the header `Content-MD5`, by which a server checks what it received."""
        return base64.b64encode(self.md5).decode()

    @property
    def metadata(self) -> dict[str, str]:
        """Object metadata by which a reader checks what it received."""
        return {_METADATA: self.sha256}


def checksums(chunks: Iterable[bytes]) -> Checksums:
    """Compute the checksums of content that comes in chunks."""
    # MD5 detects damage, not forgery: HTTPS and credentials protect against that.
    sha256, md5, size = hashlib.sha256(), hashlib.md5(usedforsecurity=False), 0
    for chunk in chunks:
        sha256.update(chunk)
        md5.update(chunk)
        size += len(chunk)
    return Checksums(size, sha256.hexdigest(), md5.digest())


def file_checksums(path: Path) -> Checksums:
    """Compute the checksums of a file."""
    with path.open("rb") as file:
        return checksums(iter(lambda: file.read(_CHUNK), b""))


def find_mismatch(received: Checksums, answer: Mapping[str, object], *, etags_are_md5: bool) -> str:
    """Compare received content with the server's answer.

    Objects that advgrpo wrote are compared with the SHA-256 in their metadata. Other objects, and
    those whose metadata the server dropped, are compared with their ETag, which is the MD5 of
    content that was put in one piece and without a customer key.

    Args:
        received: Checksums of the content.
        answer: The server's answer to the GET or HEAD.
        etags_are_md5: Whether the server's ETags of 32 digits are MD5 digests.

    Returns:
        The mismatch; empty if there is none, or nothing to compare with.
    """
    # Checked first: a truncated body needs no digest to be recognized.
    length = answer.get("ContentLength")
    if length is not None and received.size != length:
        return f"received {received.size} of {length} bytes"
    metadata = answer.get("Metadata")
    for name, value in (metadata if isinstance(metadata, Mapping) else {}).items():
        # Servers change the case of metadata keys.
        if str(name).lower() == _METADATA:
            return "" if value == received.sha256 else "its SHA-256 is not the one that was written"
    etag = str(answer.get("ETag", "")).strip('"').lower()
    # With KMS or customer keys, S3 computes the ETag of the encrypted content.
    has_key = str(answer.get("ServerSideEncryption", "")).startswith("aws:kms") or answer.get(
        "SSECustomerAlgorithm"
    )
    if not etags_are_md5 or has_key or len(etag) != _MD5_DIGITS or not etag.isalnum():
        return ""
    return "" if etag == received.md5.hex() else "its MD5 is not its ETag"
