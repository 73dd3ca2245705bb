"""Embeddings of prompts on disk: encoded once for all processes and runs."""

import hashlib
import json
import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from safetensors import SafetensorError, safe_open

from advgrpo.errors import StorageNotFoundError
from advgrpo.models.policies.base import PromptEmbeddings, TextEncoders
from advgrpo.storage.fetch import local_files
from advgrpo.storage.files import list_files, read_bytes, write_bytes
from advgrpo.storage.locations import join, scheme
from advgrpo.storage.shards import SUFFIX, Shards, write_shard
from advgrpo.strict_json import load_json

CACHED_BYTES = 2**30
"""Most memory for embeddings of prompts that are not in a store."""

_INDEX = ".json"

logger = logging.getLogger("advgrpo")


class StoredEmbeddings:
    """Embeddings that `encode_prompts` wrote.

    Args:
        location: Local folder or `s3://` location; only shards that are needed are fetched.
        prompts: Those that will be taken.

    Raises:
        StorageNotFoundError: If one of them was not encoded.
        StorageError: If they cannot be fetched.
    """

    def __init__(self, location: str, prompts: Iterable[str]) -> None:
        shards, wanted = _index(location), set(map(_key, prompts))
        if absent := wanted - shards.keys():
            raise StorageNotFoundError(
                f"{location} lacks the embeddings of {len(absent)} prompts",
                repair="run the task again; it encodes what is missing",
            )
        needed: dict[str, list[str]] = {}
        # Sorted, because the order of a set of strings differs between processes.
        for key in sorted(wanted):
            needed.setdefault(shards[key], []).append(key)
        self._shards = Shards(local_files(location, needed), needed)

    def __contains__(self, prompt: object) -> bool:
        return isinstance(prompt, str) and _key(prompt) in self._shards

    def take(self, prompt: str) -> PromptEmbeddings:
        """Read a prompt's embeddings."""
        return PromptEmbeddings((self._shards.take(_key(prompt)),))


class PromptCache:
    """Embeddings of any prompt: stored ones, and others that are encoded when first used."""

    def __init__(self, encoders: TextEncoders, stored: StoredEmbeddings | None) -> None:
        self.encoders = encoders
        self._stored = stored
        self._encoded: dict[str, PromptEmbeddings] = {}

    def take(self, prompt: str) -> PromptEmbeddings:
        """Return a prompt's embeddings."""
        if self._stored is not None and prompt in self._stored:
            return self._stored.take(prompt)
        if prompt not in self._encoded:
            new = self.encoders.encode(prompt)
            if sum(each.nbytes for each in (*self._encoded.values(), new)) > CACHED_BYTES:
                # A miss costs one encoding, so the cache is emptied as a whole instead of tracking
                # use.
                self._encoded.clear()
            self._encoded[prompt] = new
        return self._encoded[prompt]


def not_encoded(prompts: Sequence[str], location: str) -> list[str]:
    """List the prompts of which a location has no embeddings."""
    known = _index(location)
    return [prompt for prompt in prompts if _key(prompt) not in known]


def write_embeddings(location: str, embeddings: Mapping[str, PromptEmbeddings]) -> None:
    """Write a shard of embeddings.

    Args:
        location: Local folder or `s3://` location.
        embeddings: Prompt -> its embeddings alone.
    """
    rows = {_key(prompt): value.prompts[0] for prompt, value in embeddings.items()}
    name = write_shard(location, rows)
    # Written last: a shard without its index counts as absent.
    index = name.removesuffix(SUFFIX) + _INDEX
    write_bytes(join(location, index), json.dumps(list(rows)).encode())


def _index(location: str) -> dict[str, str]:
    """Read which shard holds each prompt that was encoded."""
    # One listing serves both checks; another process may add shards while this runs.
    names: Collection[str] = list_files(location)
    shards: dict[str, str] = {}
    for file in names:
        shard = file.removesuffix(_INDEX) + SUFFIX
        if not file.endswith(_INDEX) or shard not in names:
            continue
        try:
            keys = load_json(read_bytes(join(location, file)))
            _require_whole(location, shard)
        except (OSError, ValueError, SafetensorError) as error:
            # Not an error: the prompts of a damaged shard count as missing and are encoded again.
            logger.warning(
                "embeddings in %s are damaged (%s): ignored", join(location, shard), error
            )
            continue
        for key in keys:
            # Any shard of a prompt will do: the fingerprint in the location covers all that values
            # depend on.
            shards.setdefault(key, shard)
    return shards


def _require_whole(location: str, name: str) -> None:
    """Open a shard, which fails if it is truncated; one on S3 is checked as it is fetched."""
    if not scheme(location):
        with safe_open(Path(location, name), framework="pt", device="cpu"):
            pass


def _key(prompt: str) -> str:
    # Keys of shards must not contain spaces, and a prompt may have any length.
    return hashlib.sha256(prompt.encode()).hexdigest()
