"""Complete listings of S3 objects, whatever a server's pagination does."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from advgrpo.storage.s3_parts import ObjectKey

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


class ListingError(Exception):
    """A listing that repeats files, or ends before all of them are listed."""


def list_objects(
    client: "S3Client", place: ObjectKey, on_progress: Callable[[], object]
) -> Iterator[Any]:
    """List the objects whose keys start with a prefix.

    Args:
        client: Client of the server.
        place: Bucket, and prefix of the keys.
        on_progress: Called for each page that has new objects.

    Raises:
        ListingError: If the pages contradict each other.
    """
    seen: set[str] = set()
    more = False
    for page in client.get_paginator("list_objects_v2").paginate(
        Bucket=place.bucket, Prefix=place.key
    ):
        items = page.get("Contents", [])
        keys = {item["Key"] for item in items}
        # A server that ignores the continuation token would be listed for ever.
        if keys and keys <= seen:
            raise ListingError("the server repeats a page of its listing")
        if more and not keys and not page["IsTruncated"]:
            raise ListingError(f"the server announces more than {len(seen)} files and lists none")
        more = page["IsTruncated"]
        seen |= keys
        if keys:
            on_progress()
        yield from items
    # botocore ends without an error if the token of the next page is missing.
    if more:
        raise ListingError(
            f"the server announces more than {len(seen)} files, but not how to go on"
        )
