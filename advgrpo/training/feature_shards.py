"""Features of reference images on disk: shards that are named by what is in them.

A set of images that differs a little from another one has mostly the same shards, so that a prompt
that was added makes few images pass the backbone again. Each shard carries the hash of its content.
"""

import hashlib
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from torch import Tensor

from advgrpo.errors import StorageError
from advgrpo.runtime.process_group import ProcessGroup
from advgrpo.storage import cached_folder, fetched_name, join, scheme, storage_for
from advgrpo.storage.local import replaced_folder
from advgrpo.storage.tensors import save_tensors
from advgrpo.telemetry.progress import Progress

IMAGES_PER_SHARD = 256
"""On average."""

MOST_IMAGES_PER_SHARD = 1024
IMAGES_AT_ONCE = 256
"""Images that a rank holds while it computes features."""

CONTENT = "content"
"""Key of the hash of a shard's content, among the facts that its file begins with."""

Featurize = Callable[[Sequence[str]], Mapping[str, Tensor]]
"""Computes features of images, which are given by the hashes of their files, in that order."""

logger = logging.getLogger("advgrpo")


@dataclass(frozen=True)
class Shard:
    """Images whose features lie in one file."""

    images: tuple[str, ...]
    """SHA-256 of each image's file, in the order of the rows."""

    @cached_property
    def name(self) -> str:
        """Name of its file."""
        return hashlib.sha256(" ".join(self.images).encode()).hexdigest() + ".safetensors"


def plan_shards(
    images: Iterable[str], *, mean: int = IMAGES_PER_SHARD, most: int = MOST_IMAGES_PER_SHARD
) -> list[Shard]:
    """Group images so that an image more or less changes one group, or two.

    Images are sorted by hash, and one hash in `mean` ends a group. So where a group ends depends on
    what is near it and on nothing else; only groups that reach `most` depend on their beginning.

    Args:
        images: SHA-256 of each image's file; those given twice count once.
        mean: Images of a group, on average.
        most: Images of a group, at most.
    """
    shards: list[Shard] = []
    group: list[str] = []
    for image in sorted(set(images)):
        group.append(image)
        if int(image[-8:], 16) % mean == 0 or len(group) == most:
            shards.append(Shard(tuple(group)))
            group = []
    return [*shards, Shard(tuple(group))] if group else shards


class FeatureShards:
    """Features of images, in memory-mapped files: a rank touches only the rows that it takes.

    Shards that are not there, or are damaged, are computed: each by one rank, whichever run comes
    first. A run that is stopped goes on with what is missing. Two runs at once write equal values,
    each file whole or not at all.

    Args:
        images: SHA-256 of each image's file.
        featurize: Computes what is missing.
        location: Local folder or `s3://` location for the features of one frozen part, kept from
            run to run.
        process_group: The processes that share the work; every one must make this object.

    Raises:
        StorageError: If a shard is damaged and cannot be replaced.
    """

    def __init__(
        self,
        images: Iterable[str],
        featurize: Featurize,
        location: str,
        process_group: ProcessGroup,
    ) -> None:
        self._location, self._featurize, self._process_group = location, featurize, process_group
        self._shards = plan_shards(images)
        mine = self._shards[process_group.rank :: process_group.world_size]
        there = storage_for(location).list_files(location)
        self._compute([shard for shard in mine if shard.name not in there])
        process_group.barrier()
        folder = self._fetched()
        damaged = {shard: why for shard in mine if (why := damage(folder / shard.name, shard))}
        for shard, why in damaged.items():
            where = join(location, shard.name)
            logger.warning("features in %s are damaged (%s): they are computed again", where, why)
        if process_group.all_reduce_max(float(len(damaged))):
            self._compute(list(damaged))
            process_group.barrier()
            folder = self._fetched()
            for shard in damaged:
                self._require_whole(folder / shard.name, shard)
        files = [safe_open(folder / s.name, framework="pt", device="cpu") for s in self._shards]
        self._tensors = [
            {name: file.get_tensor(name) for name in list(file.keys())} for file in files
        ]
        self._places = {
            image: (number, row)
            for number, shard in enumerate(self._shards)
            for row, image in enumerate(shard.images)
        }

    def take(self, images: Sequence[str]) -> dict[str, Tensor]:
        """Read features of some images, given by the hashes of their files."""
        places = [self._places[image] for image in images]
        return {
            name: torch.stack([self._tensors[number][name][row] for number, row in places])
            for name in self._tensors[0]
        }

    def _compute(self, shards: Sequence[Shard]) -> None:
        if not shards:
            return
        total = sum(len(shard.images) for shard in shards)
        progress = Progress("reference features", total, "images")
        for shard in shards:
            parts: list[Mapping[str, Tensor]] = []
            for first in range(0, len(shard.images), IMAGES_AT_ONCE):
                batch = shard.images[first : first + IMAGES_AT_ONCE]
                parts.append({n: v.cpu() for n, v in self._featurize(batch).items()})
                progress.advance(len(batch))
            tensors = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
            with TemporaryDirectory() as scratch:
                path = Path(scratch) / "shard"
                save_tensors(tensors, path, metadata={CONTENT: content_hash(shard, tensors)})
                location = join(self._location, shard.name)
                storage_for(location).upload_file(path, location)

    def _fetched(self) -> Path:
        """Give a local folder that has the shards."""
        if not scheme(self._location):
            return Path(self._location)
        storage = storage_for(self._location)
        listing = storage.list_files(self._location)
        wanted = {shard.name: listing[shard.name] for shard in self._shards}

        def fill(folder: Path) -> None:
            with replaced_folder(folder) as fresh:
                for name in wanted:
                    storage.download_file(join(self._location, name), fresh / name)

        size = sum(state.bytes for state in wanted.values())
        return cached_folder(fetched_name(self._location, wanted), size, fill)

    def _require_whole(self, path: Path, shard: Shard) -> None:
        if why := damage(path, shard):
            raise StorageError(
                f"features in {path} are damaged ({why}), and were so again after they had been "
                "computed anew",
                repair="check the disk; delete the file",
            )


def damage(path: Path, shard: Shard) -> str:
    """Say in words what is wrong with a shard's file; empty if it is whole."""
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            tensors = {name: file.get_tensor(name) for name in list(file.keys())}
            recorded = (file.metadata() or {}).get(CONTENT)
    except (OSError, SafetensorError) as error:
        return str(error)
    return "" if recorded == content_hash(shard, tensors) else "its content is not what was written"


def content_hash(shard: Shard, tensors: Mapping[str, Float[Tensor, "image ..."]]) -> str:
    """Hash a shard's images, and names, shapes, types and values of their features."""
    digest = hashlib.sha256(shard.name.encode())
    for name, value in sorted(tensors.items()):
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        digest.update(value.contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()
