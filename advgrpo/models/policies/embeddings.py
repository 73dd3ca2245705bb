"""Embeddings of prompts: computed once for all processes and runs, read through the page cache."""

import hashlib
import json
import logging
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from safetensors import SafetensorError, safe_open

from advgrpo.config import Sd3PolicyConfig
from advgrpo.errors import StorageNotFoundError
from advgrpo.models.policies.base import PromptEmbeddings
from advgrpo.models.policies.sd3_text_encoders import CPU, TextEncoders
from advgrpo.storage import (
    join,
    list_files,
    local_files,
    read_bytes,
    scheme,
    storage_for,
    write_bytes,
)
from advgrpo.storage.tensors import save_tensors
from advgrpo.strict_json import parsed
from advgrpo.telemetry.progress import Progress

PROMPTS_PER_SHARD = 64

_SHARD, _INDEX = ".safetensors", ".json"

logger = logging.getLogger("advgrpo")


class StoredEmbeddings:
    """Embeddings on the local disk, memory-mapped: a process reads only those that it takes.

    Args:
        location: What `encode_prompts` gave; shards on S3 are fetched.
        prompts: Those that will be taken.

    Raises:
        StorageNotFoundError: If one of them was not encoded.
        StorageError: If they cannot be fetched.
    """

    def __init__(self, location: str, prompts: Iterable[str]) -> None:
        places, wanted = _places(location), set(map(_key, prompts))
        if absent := wanted - places.keys():
            raise StorageNotFoundError(
                f"{location} lacks the embeddings of {len(absent)} prompts",
                repair="run the task again; it encodes what is missing",
            )
        shards = sorted({places[key][0] for key in wanted})
        folder = local_files(location, [name + _SHARD for name in shards])
        self._files = {
            name: safe_open(folder / (name + _SHARD), framework="pt", device="cpu")
            for name in shards
        }
        self._places = {key: places[key] for key in wanted}

    def __contains__(self, prompt: object) -> bool:
        return isinstance(prompt, str) and _key(prompt) in self._places

    def take(self, prompt: str) -> PromptEmbeddings:
        """Read a prompt's embeddings."""
        name, row = self._places[_key(prompt)]
        file = self._files[name]
        context, pooled = (file.get_slice(part)[row : row + 1] for part in ("context", "pooled"))
        return PromptEmbeddings(context, pooled)


def encode_prompts(
    config: Sd3PolicyConfig,
    prompts: Sequence[str],
    *,
    store: str,
    device: torch.device = CPU,
    share: int = 0,
    shares: int = 1,
) -> str:
    """Encode what nobody encoded yet, shard by shard, and let the text encoders go.

    Args:
        config: The policy's settings.
        prompts: Those that a run needs; no encoder is loaded if all are there.
        store: Local folder or `s3://` location for embeddings, kept from run to run.
        device: Where the text encoders work.
        share: Which of several machines this is.
        shares: How many machines share the prompts.

    Returns:
        Where these prompts' embeddings lie once all machines have done their share.

    Raises:
        WeightsError: If weights are missing, damaged, pickled or of another architecture.
        StorageError: If embeddings cannot be read or written.
    """
    encoders = TextEncoders(config, device)
    location = join(store, encoders.fingerprint())
    # Shared out before looking at what is there, which changes as other machines write.
    mine = not_encoded(list(dict.fromkeys(prompts))[share::shares], location)
    if mine:
        progress = Progress("prompt embeddings", len(mine), "prompts")
        for first in range(0, len(mine), PROMPTS_PER_SHARD):
            chosen = mine[first : first + PROMPTS_PER_SHARD]
            _write_shard(location, chosen, encoders.encode, progress)
        encoders.release()
    return location


def not_encoded(prompts: Sequence[str], location: str) -> list[str]:
    """List the prompts that a location lacks.

    Args:
        prompts: Those that are looked for.
        location: What `encode_prompts` gives for them.
    """
    there = _places(location)
    return [prompt for prompt in prompts if _key(prompt) not in there]


def _write_shard(
    location: str,
    prompts: Sequence[str],
    encode: Callable[[str], PromptEmbeddings],
    progress: Progress,
) -> None:
    embeddings = []
    for prompt in prompts:
        embeddings.append(encode(prompt))
        progress.advance()
    keys = [_key(prompt) for prompt in prompts]
    name = hashlib.sha256("".join(keys).encode()).hexdigest()[:32]
    tensors = {
        "context": torch.cat([each.context for each in embeddings]),
        "pooled": torch.cat([each.pooled for each in embeddings]),
    }
    with TemporaryDirectory() as scratch:
        path = Path(scratch) / "shard"
        save_tensors(tensors, path)
        storage_for(location).upload_file(path, join(location, name + _SHARD))
    # Written last: a shard without its index is not there.
    write_bytes(join(location, name + _INDEX), json.dumps(keys).encode())


def _places(location: str) -> dict[str, tuple[str, int]]:
    """Find the shard and row of each prompt that was encoded."""
    names: Collection[str] = list_files(location)
    places: dict[str, tuple[str, int]] = {}
    for file in names:
        name = file.removesuffix(_INDEX)
        if name == file or name + _SHARD not in names:
            continue
        try:
            keys = parsed(read_bytes(join(location, file)))
            _require_whole(location, name + _SHARD)
        except (OSError, ValueError, SafetensorError) as error:
            where = join(location, name)
            logger.warning("embeddings in %s are damaged (%s): they count for none", where, error)
            continue
        for row, key in enumerate(keys):
            places.setdefault(key, (name, row))
    return places


def _require_whole(location: str, name: str) -> None:
    """Open a shard, which fails if it was cut short; one on S3 is checked as it is fetched."""
    if not scheme(location):
        with safe_open(Path(location, name), framework="pt", device="cpu"):
            pass


def _key(prompt: str) -> str:
    return hashlib.sha256(prompt.encode()).hexdigest()
