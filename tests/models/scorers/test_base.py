from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from advgrpo.errors import ConfigError, NonFiniteError
from advgrpo.models.scorers.base import check_metrics_cover, describe_missing, score_images
from advgrpo.testing import BrightnessScorer

PROMPTS = ["a dog", "a cat", "a dog", "a tree"]


class DogScorer:
    """A scorer of dogs that fails for other prompts."""

    name = "dogs"
    metrics = ("brightness", "one")

    def why_missing(self, prompt: str) -> str:
        return "" if "dog" in prompt else "it has no dog"

    def score(self, images: Tensor, prompts: Sequence[str]) -> dict[str, Tensor]:
        assert all("dog" in prompt for prompt in prompts)
        assert len(images) == len(prompts)
        return {"brightness": images.mean(dim=(1, 2, 3)), "one": torch.ones(len(images))}


def images() -> Tensor:
    return torch.arange(4).view(4, 1, 1, 1).expand(4, 3, 8, 8) / 10


def test_an_image_without_a_value_is_nan_and_the_others_keep_their_position() -> None:
    values = score_images(DogScorer(), images(), PROMPTS)

    assert list(values) == ["dogs.brightness", "dogs.one"]
    assert values["dogs.brightness"].isnan().tolist() == [False, True, False, True]
    assert values["dogs.brightness"][[0, 2]].tolist() == pytest.approx([0.0, 0.2])


def test_a_batch_without_any_value_is_not_scored() -> None:
    values = score_images(DogScorer(), images()[:2], ["a cat", "a tree"])

    assert values["dogs.one"].isnan().all()


def test_a_whole_scorer_has_a_value_for_each_image() -> None:
    values = score_images(BrightnessScorer(), images(), PROMPTS)

    assert values["brightness.mean"].tolist() == pytest.approx([0.0, 0.1, 0.2, 0.3])


def test_a_value_that_is_not_finite_is_named_with_metric_prompt_and_seed() -> None:
    broken = images().clone()
    broken[2] = torch.nan
    seeds = [f"seed {number}" for number in range(4)]

    with pytest.raises(NonFiniteError, match=r"dogs\.brightness .*'a dog' \(seed 2\)"):
        score_images(DogScorer(), broken, PROMPTS, seeds)


def test_missing_values_are_described() -> None:
    words = describe_missing([BrightnessScorer(), DogScorer()], PROMPTS)

    assert words == dict.fromkeys(
        ["dogs.brightness", "dogs.one"], "no value for 2 of 4 prompts: it has no dog"
    )
    assert describe_missing([DogScorer()], ["a dog"]) == {}


def test_a_metric_that_decides_must_have_all_values() -> None:
    check_metrics_cover("dogs.one", [DogScorer()], ["a dog"], setting="evaluation.alignment")

    with pytest.raises(ConfigError, match=r"evaluation\.alignment=dogs\.one has no value for 2"):
        check_metrics_cover("dogs.one", [DogScorer()], PROMPTS, setting="evaluation.alignment")
