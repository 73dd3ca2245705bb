"""A second policy family goes through the real loop, the evaluation and the saved adapter."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from advgrpo.config import EvaluationConfig, Weights
from advgrpo.data.prompts import read_prompts
from advgrpo.errors import WeightsError
from advgrpo.evaluation.evaluate import evaluate
from advgrpo.models.backbones.dino import DinoBackbone
from advgrpo.models.policies import Policy, load_policy
from advgrpo.models.policies.adapter import save_adapter
from advgrpo.models.policies.embeddings import StoredEmbeddings
from advgrpo.models.policies.encoding import encode_prompts, unconditional_prompt
from advgrpo.models.policies.loading import FAMILIES
from advgrpo.models.policies.sampling import sample_images
from advgrpo.testing import BrightnessScorer
from advgrpo.training.loop import train
from advgrpo.training.state import TrainingState
from tests.models.policies.toy_family import ToyPolicyConfig
from tests.training.conftest import World

CPU = torch.device("cpu")
CONFIG = ToyPolicyConfig(weights=Weights(location="not-read"))
PROMPTS = ["a red circle", "a small blue ring on a black background", "square"]


@pytest.fixture(autouse=True)
def toy_family(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FAMILIES, "toy", "tests.models.policies.toy_family:ToyPolicy")


def draw(policy: Policy, guidance_scale: float = 2.5) -> torch.Tensor:
    return sample_images(
        policy, PROMPTS, [1, 2, 3], num_inference_steps=3, guidance_scale=guidance_scale
    )


def test_another_family_is_trained_and_evaluated(
    make_state: Callable[..., TrainingState], world: World, tmp_path: Path
) -> None:
    prompts = read_prompts(str(world.prompts))
    texts = [unconditional_prompt(CONFIG), *prompts.texts]
    stored = StoredEmbeddings(encode_prompts(CONFIG, texts, store=str(tmp_path)), texts)
    state = make_state(
        "training.sampling.guidance_scale=1.5",
        "policy.gradient_checkpointing=false",
        policy=CONFIG,
        embeddings=stored,
    )

    train(state)

    assert len(state.history) == 3
    assert all(row.get("policy/ratio_error_before_step", 0) == 0 for row in state.history)
    save_adapter(tmp_path / "adapter", state.best.values, state.policy.config.adapter)
    trained = load_policy(CONFIG, CPU, tmp_path / "adapter", embeddings=stored)
    run = world.config()
    distance = run.evaluation.distance
    config = EvaluationConfig(
        distance=distance, alignment="brightness.mean", prompts=4, bootstrap_samples=20, cmmd=None
    )
    found = evaluate(
        trained,
        prompts,
        world.reference_images,
        config=config,
        sampling=run.training.sampling,
        scorers=[BrightnessScorer()],
        backbone=DinoBackbone(
            distance.weights, resolution_pixels=distance.resolution_pixels, device=CPU
        ),
    )
    assert {comparison.metric for comparison in found.report.comparisons} >= {"brightness.mean"}


def test_prompts_of_different_lengths_share_a_batch(tmp_path: Path) -> None:
    policy = load_policy(CONFIG, CPU)
    location = encode_prompts(CONFIG, [*PROMPTS, "nothing"], store=str(tmp_path))
    stored = StoredEmbeddings(location, [*PROMPTS, "nothing"])
    assert [len(words) for words in policy.embed(PROMPTS).tensors("words")] == [3, 8, 1]
    assert torch.equal(draw(policy), draw(load_policy(CONFIG, CPU, embeddings=stored)))


def test_the_family_decides_how_predictions_are_guided() -> None:
    policy = load_policy(CONFIG, CPU)
    latents, embeddings = torch.randn(3, 3, 32, 32), policy.embed(PROMPTS)
    norms = [
        policy.velocity(latents, 0.5, embeddings, guidance_scale=scale).norm(dim=1)
        for scale in (1.0, 4.0)
    ]
    torch.testing.assert_close(norms[0], norms[1])


def test_an_adapter_of_another_family_is_refused(world: World, tmp_path: Path) -> None:
    policy = load_policy(world.config().policy, CPU)
    save_adapter(tmp_path, policy.trainable_parameters(), policy.config.adapter)
    with pytest.raises(WeightsError, match="for another base model"):
        load_policy(CONFIG, CPU, tmp_path)
