from pathlib import Path

import boto3
import pytest
import torch

from advgrpo.demo.servers import EmbeddedServers
from advgrpo.evaluation.batch_cache import WorkspaceBatchCache, concatenate
from advgrpo.evaluation.results import MeasuredImages


@pytest.fixture
def measured() -> MeasuredImages:
    values = torch.rand(4, generator=torch.Generator().manual_seed(0))
    return MeasuredImages(
        prompts=torch.tensor([0, 0, 1, 1]),
        values={"judge.colour": values, "image.dark": 1 - values, "brightness": values},
        features=values.repeat(3, 1).T,
        clip_features=values.repeat(2, 1).T,
    )


def same(one: MeasuredImages, two: MeasuredImages) -> bool:
    return (
        torch.equal(one.prompts, two.prompts)
        and torch.equal(one.features, two.features)
        and torch.equal(one.clip_features, two.clip_features)
        and list(one.values) == list(two.values)
        and all(torch.equal(value, two.values[name]) for name, value in one.values.items())
    )


def test_a_batch_is_read_back_bit_by_bit_with_the_order_of_its_metrics(
    measured: MeasuredImages, tmp_path: Path
) -> None:
    cache = WorkspaceBatchCache(str(tmp_path))
    cache.write("base/00000", measured)

    again = cache.read("base/00000")

    assert again is not None
    assert same(again, measured)
    assert cache.read("base/00001") is None


def test_an_object_store_is_a_cache_like_a_disk(
    measured: MeasuredImages, stores: EmbeddedServers
) -> None:
    bucket = boto3.client("s3", endpoint_url=stores.s3_endpoint)
    bucket.create_bucket(Bucket="kept")
    cache = WorkspaceBatchCache("s3://kept/evaluations/measured")
    cache.write("base/00000", measured)

    again = cache.read("base/00000")

    assert again is not None
    assert same(again, measured)
    assert cache.read("base/00001") is None


@pytest.mark.parametrize("name", ["00000.json", "00000.safetensors"])
@pytest.mark.parametrize("damage", [b"", b"{}", b"garbage"])
def test_a_damaged_batch_is_treated_as_missing(
    measured: MeasuredImages, tmp_path: Path, name: str, damage: bytes
) -> None:
    cache = WorkspaceBatchCache(str(tmp_path))
    cache.write("base/00000", measured)
    (tmp_path / "base" / name).write_bytes(damage)

    assert cache.read("base/00000") is None


@pytest.mark.parametrize("name", ["00000.json", "00000.safetensors"])
def test_an_incomplete_batch_is_treated_as_missing(
    measured: MeasuredImages, tmp_path: Path, name: str
) -> None:
    cache = WorkspaceBatchCache(str(tmp_path))
    cache.write("base/00000", measured)
    (tmp_path / "base" / name).unlink()

    assert cache.read("base/00000") is None


def test_a_flipped_bit_is_detected(measured: MeasuredImages, tmp_path: Path) -> None:
    cache = WorkspaceBatchCache(str(tmp_path))
    cache.write("base/00000", measured)
    file = tmp_path / "base" / "00000.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)

    assert cache.read("base/00000") is None


def test_batches_are_concatenated_in_their_order(measured: MeasuredImages) -> None:
    both = concatenate([measured, measured])

    assert both.prompts.tolist() == [0, 0, 1, 1, 0, 0, 1, 1]
    assert torch.equal(both.values["brightness"][4:], measured.values["brightness"])
    assert both.clip_features is not None
    assert len(both.clip_features) == 8
