import pytest
import torch

from advgrpo.config import resolve
from advgrpo.models.policies import load_policy
from advgrpo.tasks.reproduce import recompute
from advgrpo.training.nonfinite_dump import ADAPTER, NonFiniteDump

PROMPTS = ("a red circle on a blue background", "two green squares")


def test_the_divergence_from_the_base_is_part_of_the_loss_that_is_reproduced() -> None:
    config = resolve(
        "pocket",
        [
            "training.algorithm.kl_weight=0.5",
            "training.sampling.num_inference_steps=3",
            "training.algorithm.window={type: fixed, start: 1, length: 1}",
        ],
    )
    policy = load_policy(config.policy, torch.device("cpu"), seed=0)
    generator = torch.Generator().manual_seed(0)
    adapter = {
        name: torch.randn(value.shape, generator=generator) * 0.1
        for name, value in policy.trainable_parameters().items()
    }
    dump = NonFiniteDump(
        message="a test",
        seed=0,
        rollout=0,
        images=tuple((i, 0, prompt) for i, prompt in enumerate(PROMPTS)),
        advantages=None,
        policy=config.policy,
        sampling=config.training.sampling,
        algorithm=config.training.algorithm,
    )
    tensors = {ADAPTER + name: value for name, value in adapter.items()}
    found = {report.name: report.largest for report in recompute(dump, tensors, policy)}
    divergence = found["divergence_from_base at denoising step 1"]
    assert divergence > 0
    # The ratio is 1 and each advantage 1, so without the divergence it is -1.
    assert found["loss at denoising step 1"] == pytest.approx(abs(0.5 * divergence - 1))

    free = dump.model_copy(
        update={"algorithm": dump.algorithm.model_copy(update={"kl_weight": 0.0})}
    )
    without = {report.name: report.largest for report in recompute(free, tensors, policy)}
    assert without["loss at denoising step 1"] == pytest.approx(1)
    gradients = [name for name in found if name.startswith("gradient of")]
    assert any(found[name] != without[name] for name in gradients)
