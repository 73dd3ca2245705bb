from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from advgrpo.errors import ConfigError, NonFiniteError
from advgrpo.models.backbones.dino import DinoBackbone
from advgrpo.models.policies import load_policy
from advgrpo.runtime.process_group import ProcessGroup
from advgrpo.testing import SIDE_PIXELS, BrightnessScorer
from advgrpo.training.held_out import HeldOutMonitor
from advgrpo.training.reward import DISCRIMINATOR
from tests.training.conftest import World

CPU = torch.device("cpu")


class OnlyOne:
    """Scores one prompt only: by its brightness or by a given value."""

    name = "only"
    metrics = ("mean",)

    def __init__(self, prompt: str, factor: float = 1.0) -> None:
        self._prompt, self._factor = prompt, factor

    def why_missing(self, prompt: str) -> str:
        return "" if prompt == self._prompt else "it is another"

    def score(self, images: Tensor, prompts: Sequence[str]) -> dict[str, Tensor]:
        assert list(prompts) == [self._prompt]
        return {"mean": self._factor * images.mean(dim=(1, 2, 3))}


def rewards(
    images: Tensor,
    prompts: Sequence[str],  # noqa: ARG001 - the interface
) -> dict[str, Tensor]:
    return {DISCRIMINATOR: torch.zeros(len(images))}


def metrics(world: World, prompts: Sequence[str], scorer: OnlyOne) -> dict[str, float]:
    config = world.config()
    monitor = HeldOutMonitor(
        prompts,
        world.reference_images,
        DinoBackbone(config.evaluation.distance.weights, resolution_pixels=SIDE_PIXELS, device=CPU),
        [BrightnessScorer(), scorer],
        config.training.sampling,
        ProcessGroup(),
        batch_size=4,
        seed=0,
    )
    return dict(monitor.measure(load_policy(config.policy, CPU, seed=0), rewards).metrics)


class Telling(BrightnessScorer):
    """Records that it was called."""

    def __init__(self, happened: list[str]) -> None:
        self._happened = happened

    def score(self, images: Tensor, prompts: Sequence[str]) -> dict[str, Tensor]:
        self._happened.append("scored")
        return super().score(images, prompts)


def test_each_batch_and_each_scorer_counts_as_progress(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, process_group, happened = world.config(), ProcessGroup(), list[str]()
    policy = load_policy(config.policy, CPU, seed=0)
    decode = policy.decode

    def draw(latents: Tensor) -> Tensor:
        happened.append("drawn")
        return decode(latents)

    monkeypatch.setattr(policy, "decode", draw)
    monitor = HeldOutMonitor(
        list(world.reference_images.files)[:3],
        world.reference_images,
        DinoBackbone(config.evaluation.distance.weights, resolution_pixels=SIDE_PIXELS, device=CPU),
        [Telling(happened), Telling(happened)],
        config.training.sampling,
        process_group,
        batch_size=1,
        seed=0,
    )
    monkeypatch.setattr(process_group.monitor, "beat", lambda: happened.append("beat"))
    monitor.measure(policy, rewards)
    assert (happened.count("drawn"), happened.count("scored")) == (3, 2)
    after = [happened[place + 1] for place, what in enumerate(happened) if what != "beat"]
    assert set(after) == {"beat"}


def test_a_metric_is_the_mean_over_the_prompts_that_have_a_value(world: World) -> None:
    prompts = list(world.reference_images.files)[:3]

    found = metrics(world, prompts, OnlyOne(prompts[1]))
    alone = metrics(world, prompts[1:3], OnlyOne(prompts[1]))

    assert found["held_out/only.mean"] == pytest.approx(alone["held_out/only.mean"], abs=1e-5)
    assert found["held_out/only.mean"] != pytest.approx(found["held_out/brightness.mean"], abs=1e-5)


def test_a_metric_without_any_value_is_omitted(world: World) -> None:
    prompts = list(world.reference_images.files)[:3]

    assert "held_out/only.mean" not in metrics(world, prompts, OnlyOne("none of them"))


def test_a_nan_value_ends_the_run_and_is_named(world: World) -> None:
    prompts = list(world.reference_images.files)[:3]

    with pytest.raises(NonFiniteError, match=rf"only\.mean .*{prompts[1]}.* \(seed \d+\)"):
        metrics(world, prompts, OnlyOne(prompts[1], float("inf")))


def test_an_alignment_that_held_out_prompts_lack_is_refused_before_training(
    world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(OnlyOne, "name", "brightness")
    monkeypatch.setattr("tests.training.conftest.BrightnessScorer", lambda: OnlyOne("none"))

    with pytest.raises(ConfigError, match=r"evaluation\.alignment=brightness\.mean has no value"):
        world.state(tmp_path)
