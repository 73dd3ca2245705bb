"""TF32 in frozen models, whose rounding is computed on the CPU."""

# ruff: noqa: ANN401 - operators of torch take and return anything

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from advgrpo.config.discriminator import DinoDiscriminatorConfig, PickScoreDiscriminatorConfig
from advgrpo.config.reward import RewardConfig
from advgrpo.models.discriminators import build_discriminator
from advgrpo.models.discriminators.base import Discriminator
from advgrpo.models.scorers.build import build_reward_scorers
from advgrpo.records import ReferenceImageSet
from advgrpo.testing import TinyModels, write_tiny_backbone, write_tiny_models
from advgrpo.testing.models import TINY_BACKBONES
from advgrpo.training.reward import Reward

CPU = torch.device("cpu")
PROMPTS = ["a small red circle", "a large blue ring"] * 4
_aten = torch.ops.aten
PRODUCTS = {
    _aten.mm.default,
    _aten.addmm.default,
    _aten.bmm.default,
    _aten.baddbmm.default,
    _aten.convolution.default,
}


class Tf32(TorchDispatchMode):
    """Rounds the operands of products as a GPU does where TF32 is allowed."""

    rounded = 0

    def __torch_dispatch__(self, function: Any, _: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function in PRODUCTS and torch.backends.cuda.matmul.allow_tf32:
            self.rounded += 1
            args = tree_map_only(torch.Tensor, to_tf32, args)
        return function(*args, **kwargs or {})


def to_tf32(values: Tensor) -> Tensor:
    bits = values.contiguous().view(torch.int32)
    return ((bits + 0x1000) & ~0x1FFF).view(torch.float32)


def images() -> Tensor:
    return torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(3))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyModels:
    return write_tiny_models(tmp_path_factory.mktemp("tiny"))


def built(kind: str, tiny: TinyModels, folder: Path, **settings: object) -> Discriminator:
    if kind == "pickscore":
        weights: object = {"location": str(tiny.pickscore)}
        chosen = PickScoreDiscriminatorConfig.model_validate({"weights": weights, **settings})
        return build_discriminator(chosen, CPU, seed=0)
    weights = {"location": str(write_tiny_backbone(folder, kind))}
    size = {"resolution_pixels": 32, "hidden_width": 8}
    config = DinoDiscriminatorConfig.model_validate({"weights": weights, **size, **settings})
    return build_discriminator(config, CPU, seed=0)


def in_tf32(score: Callable[[], Tensor]) -> tuple[Tensor, int]:
    with Tf32() as mode, sdpa_kernel(SDPBackend.MATH):
        return score(), mode.rounded


@pytest.mark.parametrize("kind", ["pickscore", *sorted(TINY_BACKBONES)])
def test_frozen_parts_in_tf32_rank_images_as_in_float32_and_the_trained_part_stays_float32(
    tiny: TinyModels, tmp_path: Path, kind: str
) -> None:
    discriminator = built(kind, tiny, tmp_path)

    def rewards(features: dict[str, Tensor]) -> Tensor:
        return discriminator.rewards(discriminator.with_prompts(features, PROMPTS))

    with Tf32() as mode, sdpa_kernel(SDPBackend.MATH):
        features = dict(discriminator.image_features(images()))
        rounded = mode.rounded
        found = rewards(features)
        loss = discriminator.loss(*[discriminator.with_prompts(features, PROMPTS)] * 3)
        loss.backward()
        # Neither reward, loss nor gradient.
        assert mode.rounded == rounded > 0
    expected = rewards(dict(discriminator.image_features(images())))
    assert not torch.equal(found, expected)
    assert found.argsort().tolist() == expected.argsort().tolist()
    exact = built(kind, tiny, tmp_path, frozen_precision="float32")
    assert in_tf32(lambda: next(iter(exact.image_features(images()).values())))[1] == 0
    # Stored features are not shared, trained parts are.
    assert exact.fingerprint != discriminator.fingerprint
    assert exact.frozen_fingerprint == discriminator.frozen_fingerprint


@pytest.mark.parametrize("scorer", ["pickscore", "clip_score", "hps"])
def test_scorers_that_reward_rank_images_in_tf32_as_in_float32(
    tiny: TinyModels, scorer: str
) -> None:
    term = {"type": scorer, "weights": {"location": str(tiny.pickscore)}}

    def scores(precision: str) -> tuple[Tensor, int]:
        config = RewardConfig.model_validate(
            {"terms": [{"type": "scorer", "scorer": term}], "frozen_precision": precision}
        )
        scorers = build_reward_scorers(config, CPU, ReferenceImageSet("", {}, 32, ""))
        reward = Reward(config, built("pickscore", tiny, tiny.pickscore), scorers)
        return in_tf32(lambda: reward.of_scorers(images(), PROMPTS)[scorer])

    (found, rounded), (expected, none) = scores("auto"), scores("float32")
    assert rounded > none == 0
    for prompt in (slice(0, None, 2), slice(1, None, 2)):
        assert found[prompt].argsort().tolist() == expected[prompt].argsort().tolist()
    assert not torch.equal(found, expected)
