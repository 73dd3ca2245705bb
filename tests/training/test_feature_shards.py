import hashlib
import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from advgrpo.demo.servers import EmbeddedServers
from advgrpo.runtime.process_group import ProcessGroup
from advgrpo.storage import join, list_files, read_bytes, write_bytes
from advgrpo.storage.shards import shard_name
from advgrpo.training.feature_shards import FeatureShards, plan_shards


def hashes(count: int, start: int = 0) -> list[str]:
    return [hashlib.sha256(str(n).encode()).hexdigest() for n in range(start, start + count)]


class Counting:
    """Computes features that identify their image, and counts the images."""

    def __init__(self, fails_after: int | None = None) -> None:
        self.images = 0
        self._fails_after = fails_after

    def __call__(self, images: Sequence[str]) -> Mapping[str, torch.Tensor]:
        if self._fails_after is not None and self.images >= self._fails_after:
            raise KeyboardInterrupt
        self.images += len(images)
        values = torch.tensor([[int(image[:4], 16)] for image in images])
        return {"tokens": values.float(), "half": values.bfloat16()[:, None].expand(-1, 2, 1)}


def built(images: Sequence[str], location: Path | str, counting: Counting) -> FeatureShards:
    return FeatureShards(images, counting, str(location), ProcessGroup())


def test_every_image_is_in_one_shard_whatever_their_order() -> None:
    images = hashes(3000)
    shards = plan_shards(images, mean=64, most=128)
    assert sorted(image for shard in shards for image in shard) == sorted(images)
    assert shards == plan_shards([*reversed(images), images[0]], mean=64, most=128)
    assert max(len(shard) for shard in shards) <= 128
    assert 20 < len(shards) < 100


@pytest.mark.parametrize("more", range(20))
def test_one_more_image_changes_one_shard_or_divides_it(more: int) -> None:
    images = hashes(2000)
    before = set(plan_shards(images, mean=64, most=10_000))
    after = set(plan_shards([*images, *hashes(1, 5000 + more)], mean=64, most=10_000))
    assert len(before - after) == 1
    assert 1 <= len(after - before) <= 2


def test_features_are_those_of_the_given_images(tmp_path: Path) -> None:
    images = hashes(700)
    taken = built(images, tmp_path, Counting()).take([images[5], images[600], images[5]])
    expected = [int(images[n][:4], 16) for n in (5, 600, 5)]
    assert taken["tokens"].flatten().tolist() == expected
    assert taken["half"].dtype == torch.bfloat16
    assert taken["half"].shape == (3, 2, 1)


def test_a_set_that_shares_images_computes_few_of_them_again(tmp_path: Path) -> None:
    images, first, again, other = hashes(4000), Counting(), Counting(), Counting()
    built(images, tmp_path, first)
    built(images[::-1], tmp_path, again)
    built([*images, *hashes(1, 9000)], tmp_path, other)
    assert (first.images, again.images) == (4000, 0)
    assert 0 < other.images < 1200
    # Shards of both sets are stored once.
    assert len(list_files(str(tmp_path))) <= len(plan_shards(images)) + 2


def test_features_are_memory_mapped(tmp_path: Path) -> None:
    kept = built(hashes(300), tmp_path, Counting())
    mapped = Path("/proc/self/maps").read_text(encoding="utf-8")
    assert all(str(tmp_path / name) in mapped for name in list_files(str(tmp_path)))
    assert kept.take(hashes(1))["tokens"].shape == (1, 1)


def test_an_interrupted_run_resumes_with_what_is_missing(tmp_path: Path) -> None:
    images, stopped, resumed = hashes(4000), Counting(fails_after=2000), Counting()
    with pytest.raises(KeyboardInterrupt):
        built(images, tmp_path, stopped)
    there = len(list_files(str(tmp_path)))
    assert 0 < there < len(plan_shards(images))
    built(images, tmp_path, resumed)
    assert 4000 - stopped.images <= resumed.images < 4000


def torn(data: bytes) -> bytes:
    return data[: len(data) // 2]


def flipped(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


def with_a_broken_header(data: bytes) -> bytes:
    return b"\xff" * 16 + data[16:]


@pytest.mark.parametrize("damage", [torn, flipped, with_a_broken_header, lambda _data: b""])
def test_a_damaged_shard_is_named_and_computed_again(
    tmp_path: Path, damage: object, caplog: pytest.LogCaptureFixture
) -> None:
    images = hashes(1500)
    before = built(images, tmp_path, Counting()).take(images)
    victim = plan_shards(images)[1]
    path = tmp_path / shard_name(victim)
    path.write_bytes(damage(path.read_bytes()))  # type: ignore[operator]
    counting = Counting()
    with caplog.at_level(logging.WARNING, "advgrpo"):
        after = built(images, tmp_path, counting).take(images)
    assert counting.images == len(victim)
    assert torch.equal(after["tokens"], before["tokens"])
    (message,) = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    assert str(path) in message
    assert "computing them again" in message


def test_a_shard_of_other_images_under_its_name_is_detected(tmp_path: Path) -> None:
    images = hashes(1500)
    built(images, tmp_path, Counting())
    one, other = plan_shards(images)[:2]
    (tmp_path / shard_name(one)).write_bytes((tmp_path / shard_name(other)).read_bytes())
    counting = Counting()
    built(images, tmp_path, counting)
    assert counting.images == len(one)


def test_two_runs_at_once_leave_whole_shards(tmp_path: Path) -> None:
    images = hashes(1500)
    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(lambda _: built(images, tmp_path, Counting()), range(2)))
    assert torch.equal(both[0].take(images)["tokens"], both[1].take(images)["tokens"])
    unused = Counting()
    built(images, tmp_path, unused)
    assert unused.images == 0


def test_shards_in_an_object_store_are_shared_and_repaired(
    tmp_path: Path,
    stores: EmbeddedServers,  # noqa: ARG001 - must run
) -> None:
    location, images = f"s3://advgrpo/features/{tmp_path.name}", hashes(1500)
    before = built(images, location, Counting()).take(images)
    more = Counting()
    built([*images, *hashes(1, 9000)], location, more)
    assert 0 < more.images < 1200
    victim = plan_shards(images)[0]
    where = join(location, shard_name(victim))
    write_bytes(where, torn(read_bytes(where)))
    counting = Counting()
    after = built(images, location, counting).take(images)
    assert counting.images == len(victim)
    assert torch.equal(after["tokens"], before["tokens"])
