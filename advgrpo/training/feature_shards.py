"""Features of reference images on disk, in shards that depend only on the images in them.

A set of images that differs a little from another one has mostly the same shards, so that a prompt
that is added makes few images pass the backbone again.
"""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from advgrpo.errors import StorageError
from advgrpo.runtime.process_group import ProcessGroup
from advgrpo.storage.fetch import local_files
from advgrpo.storage.files import list_files
from advgrpo.storage.locations import join
from advgrpo.storage.shards import Shards, shard_damage, shard_name, write_shard
from advgrpo.telemetry.progress import Progress

IMAGES_PER_SHARD = 256
"""On average."""

MOST_IMAGES_PER_SHARD = 1024
IMAGES_AT_ONCE = 256
"""Images that a rank holds while it computes features."""

Featurize = Callable[[Sequence[str]], Mapping[str, Tensor]]
"""Computes features of images, which are given by the hashes of their files, in that order."""

logger = logging.getLogger("advgrpo")


def plan_shards(
    images: Iterable[str], *, mean: int = IMAGES_PER_SHARD, most: int = MOST_IMAGES_PER_SHARD
) -> list[tuple[str, ...]]:
    """Group images so that adding or removing an image changes one group, or two.

    Images are sorted by hash, and one hash in `mean` ends a group. So where a group ends depends on
    what is near it and on nothing else; only groups that reach `most` depend on their beginning.

    Args:
        images: SHA-256 of each image's file; those given twice count once.
        mean: Images of a group, on average.
        most: Images of a group, at most.
    """
    groups: list[tuple[str, ...]] = []
    group: list[str] = []
    for image in sorted(set(images)):
        group.append(image)
        if int(image[-8:], 16) % mean == 0 or len(group) == most:
            groups.append(tuple(group))
            group = []
    return [*groups, tuple(group)] if group else groups


class FeatureShards:
    """Features of images, in memory-mapped files: a rank reads only the rows that it takes.

    Missing or damaged shards are computed, each by one rank of the run that first needs it. An
    interrupted run resumes with what is missing. Two concurrent runs write equal values, each file
    whole or not at all.

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
        self._location, self._featurize = location, featurize
        shards = {shard_name(group): group for group in plan_shards(images)}
        # Split before the location is listed, which changes as other ranks write.
        mine = list(shards.items())[process_group.rank :: process_group.world_size]
        existing = list_files(location)
        # No collective calls inside: ranks compute different numbers of shards.
        self._compute([group for name, group in mine if name not in existing])
        process_group.barrier()
        # All shards, not only this rank's: a batch may contain any image.
        folder = local_files(location, shards)
        # Each rank hashes its own shards only, so that all are checked once.
        damaged = {name: why for name, _ in mine if (why := shard_damage(folder / name))}
        for name, why in damaged.items():
            logger.warning(
                "features in %s are damaged (%s): computing them again", join(location, name), why
            )
        # All ranks enter: those without damage must wait for the new shards and fetch them.
        if process_group.all_reduce_max(float(len(damaged))):
            self._compute([shards[name] for name in damaged])
            process_group.barrier()
            folder = local_files(location, shards)
            for name in damaged:
                _require_whole(folder / name)
        self._shards = Shards(folder, shards)

    def take(self, images: Sequence[str]) -> dict[str, Tensor]:
        """Read features of some images, given by the hashes of their files."""
        rows = [self._shards.take(image) for image in images]
        return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}

    def _compute(self, groups: Sequence[Sequence[str]]) -> None:
        if not groups:
            return
        progress = Progress("reference features", sum(map(len, groups)), "images")
        for group in groups:
            rows: dict[str, dict[str, Tensor]] = {}
            for first in range(0, len(group), IMAGES_AT_ONCE):
                batch = group[first : first + IMAGES_AT_ONCE]
                features = {name: value.cpu() for name, value in self._featurize(batch).items()}
                for row, image in enumerate(batch):
                    rows[image] = {name: value[row] for name, value in features.items()}
                progress.advance(len(batch))
            # Shard by shard: an interrupted run keeps what it has computed.
            write_shard(self._location, rows)


def _require_whole(path: Path) -> None:
    if why := shard_damage(path):
        raise StorageError(
            f"features in {path} are damaged ({why}), again after they had been recomputed",
            repair="check the disk for faults, and delete the file",
        )
