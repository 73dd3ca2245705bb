"""The reward as a mixture of frozen scorers and the discriminator."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from advgrpo.config import resolve
from advgrpo.config.reward import RewardConfig
from advgrpo.data.image_loading import load_images
from advgrpo.errors import ConfigError
from advgrpo.models.scorers.ocr import Ocr
from advgrpo.tasks.preflight import check_prompts
from advgrpo.training.loop import train_on_rollout
from advgrpo.training.reward import Reward
from advgrpo.training.state import TrainingState
from tests.training.conftest import World

pytestmark = pytest.mark.usefixtures("loaded_once")

Make = Callable[..., TrainingState]
OTHER_ALIGNMENT = (
    "evaluation.scorers=[{type: clip_score, weights: {location: clip}}]",
    "evaluation.alignment=clip_score.score",
)


@pytest.fixture
def mixed(world: World) -> list[str]:
    similarity = f"{{location: {world.tiny.dino}}}, resolution_pixels: 32"
    return [
        (
            "training.reward={standardize: true, terms: [{type: scorer, "
            "scorer: {type: pocket_judge}, metric: attribute_accuracy, weight: 2}, "
            f"{{type: scorer, scorer: {{type: reference_similarity, weights: {similarity}}}, "
            "weight: 0.5}, "
            "{type: discriminator, weight: 0.25}]}"
        ),
        *OTHER_ALIGNMENT,
    ]


def test_each_term_is_logged_separately_and_all_train_the_policy(
    make_state: Make, mixed: list[str]
) -> None:
    state = make_state(*mixed)
    metrics = train_on_rollout(state)
    for name in ("pocket_judge", "reference_similarity", "discriminator"):
        assert metrics[f"reward/{name}_std_in_group"] > 0
    assert 0 <= metrics["reward/pocket_judge"] <= 1
    assert -1 <= metrics["reward/reference_similarity"] <= 1
    assert metrics["policy/gradient_norm"] > 0
    assert state.reward.weights == [2, 0.5, 0.25]


def test_terms_equal_the_values_of_their_scorers(
    make_state: Make, mixed: list[str], world: World
) -> None:
    state = make_state(*mixed)
    texts = [t for t in state.prompts.texts[:4] for _ in range(2)]
    images = torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    terms = state.reward.terms(images, state.discriminator.image_features(images), texts)
    judged = state.reward._scorers["pocket_judge"].score(images, texts)
    assert torch.equal(terms[:, 0], judged["attribute_accuracy"].float())
    own = load_images(world.reference_images, texts[0], [0])
    similar = state.reward.of_scorers(own, texts[:1])["reference_similarity"]
    assert float(similar) == pytest.approx(1.0, abs=1e-5)


def test_reference_images_are_put_above_generated_ones_by_each_term(
    make_state: Make, mixed: list[str]
) -> None:
    state = make_state(*mixed)
    values = state.reference_rewards.values()
    assert values.keys() == {"pocket_judge", "reference_similarity", "discriminator"}
    # Reference images show all that their captions say.
    assert float(values["pocket_judge"].mean()) == pytest.approx(1.0)


def test_a_scorer_of_another_package_is_a_term_of_the_reward(make_state: Make) -> None:
    toy = "{type: python, path: 'tests.models.scorers.toy_scorer:Contrast', name: contrast, "
    state = make_state(
        "training.reward.terms=[{type: discriminator}, {type: scorer, weight: 0.5, scorer: "
        f"{toy} metrics: [spread], options: {{gain: 2}}}}}}]"
    )
    metrics = train_on_rollout(state)
    assert metrics["reward/contrast"] > 0
    assert metrics["reward/contrast_std_in_group"] > 0
    assert state.reward.weights == [1, 0.5]


class Reads:
    """A reader that reads one text in bright pictures, and nothing in dark ones."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __call__(self, picture: np.ndarray) -> str:
        return self._text if picture.mean() > 128 else ""


def ocr_reward(scorer: object, state: TrainingState) -> Reward:
    config = RewardConfig.model_validate(
        {"terms": [{"type": "scorer", "scorer": {"type": "ocr"}}, {"type": "discriminator"}]}
    )
    return Reward(config, state.discriminator, {"ocr": scorer})  # type: ignore[dict-item]


def test_text_that_can_be_read_is_rewarded(make_state: Make) -> None:
    reward = ocr_reward(Ocr(Reads("open")), make_state())
    images = torch.stack([torch.ones(3, 32, 32), torch.zeros(3, 32, 32)])
    values = reward.of_scorers(images, ['a sign that says "open"'] * 2)
    assert values["ocr"].tolist() == [1.0, 0.0]


def test_prompts_that_quote_nothing_are_refused_before_training(make_state: Make) -> None:
    reward = ocr_reward(Ocr(Reads("open")), make_state())
    reward.check_prompts(['"a"', "“b”"])
    with pytest.raises(ConfigError, match=r"terms\.0=ocr\.accuracy has no value for 1 of 2"):
        reward.check_prompts(['"a"', "b"])


def test_prompts_that_quote_nothing_are_refused_before_anything_is_made(tmp_path: Path) -> None:
    for name in ("train", "test"):
        lines = [f'{name} a sign that says "{n}"' for n in range(200)]
        (tmp_path / f"{name}.txt").write_text("\n".join(lines), encoding="utf-8")
    settings = [f"prompts.{name}={tmp_path}/{name}.txt" for name in ("train", "test")]
    config = resolve(
        "pocket", [*settings, "training.reward.terms=[{type: scorer, scorer: {type: ocr}}]"]
    )
    check_prompts(config, 1)
    with (tmp_path / "train.txt").open("a", encoding="utf-8") as file:
        file.write("\na sign")
    with pytest.raises(
        ConfigError, match=r"terms\.0\.scorer \(ocr\) cannot score 1 of the 201"
    ) as caught:
        check_prompts(config, 1)
    assert "'a sign'" in str(caught.value)
