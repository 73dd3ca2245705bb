from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from advgrpo.config import RunConfig, resolve
from advgrpo.config.policy import SamplingConfig
from advgrpo.errors import ConfigError
from advgrpo.models.policies import load_policy, quantization
from advgrpo.models.policies.loading import check_policy
from advgrpo.models.policies.sampling import sample_images
from advgrpo.planning.memory import gpu_memory
from advgrpo.planning.models import models_of
from tests.models.policies.families import FAMILIES, Family

CPU = torch.device("cpu")
INT8 = ("policy.quantization=int8", "training.engine=ddp")


def test_without_the_package_it_is_refused_before_weights_are_loaded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(quantization, "find_spec", lambda _name: None)
    config = FAMILIES[0].settings(tmp_path, quantization="int8")
    with pytest.raises(ConfigError, match="torchao is not installed") as caught:
        check_policy(config, SamplingConfig(), None)
    assert "advgrpo[quantize]" in caught.value.repair


def test_an_engine_that_moves_all_weights_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"quantization=int8 .* set training.engine=ddp"):
        resolve("pocket", ["policy.quantization=int8"])
    assert isinstance(resolve("pocket", INT8), RunConfig)


def test_a_plan_counts_a_byte_for_each_weight_of_a_layer() -> None:
    sizes = []
    for overrides in ((), INT8):
        run = resolve("qwen_image_dino", overrides, needed=())
        parts = {part.name: part.bytes or 0 for part in gpu_memory(run, models_of(run), 1)}
        sizes.append(parts["transformer"])
    assert sizes[0] == 2 * 20_430_401_088
    assert sizes[1] == pytest.approx(20.5e9, rel=0.01)


@pytest.mark.skipif(find_spec("torchao") is None, reason="needs the extra quantize")
@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_quantized_weights_are_trained_through_from_a_ratio_of_one(
    family: Family, tmp_path: Path
) -> None:
    folder = family.save(tmp_path)
    config = family.settings(folder, forward_dtype="bfloat16", gradient_checkpointing=True)
    policies = [
        load_policy(config.model_copy(update={"quantization": kind}), CPU)
        for kind in ("none", "int8")
    ]
    images = [
        sample_images(each, ["a cat"], [1], num_inference_steps=3, guidance_scale=family.guided)
        for each in policies
    ]
    assert 0 < (images[0] - images[1]).abs().mean() < 0.1
    policy = policies[1]
    kinds = {type(each.data).__name__ for each in policy.transformer.parameters()}
    assert "Int8Tensor" in kinds
    assert all(each.dtype == torch.float32 for each in policy.trainable_parameters().values())
    latents, embeddings = torch.randn(2, *policy.latent_shape), policy.embed(["a", "b"])
    with torch.no_grad():
        rollout = policy.velocity(latents, 0.7, embeddings, guidance_scale=family.guided)
    update = policy.velocity(latents, 0.7, embeddings, guidance_scale=family.guided)
    assert torch.equal(rollout, update)
    update.square().mean().backward()
    assert any(
        bool(p.grad.any()) for p in policy.trainable_parameters().values() if p.grad is not None
    )
