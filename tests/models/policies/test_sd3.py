import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusion3Pipeline
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from advgrpo.algorithm.randomness import gaussian_noise
from advgrpo.config.policy import Sd3AdapterConfig
from advgrpo.errors import WeightsError
from advgrpo.models.policies import Policy, load_policy
from advgrpo.models.policies.adapter import save_adapter
from advgrpo.models.policies.sampling import sample_images
from advgrpo.testing import TinyModels
from tests.models.policies.plain import sample_with_diffusers

pytestmark = pytest.mark.usefixtures("loaded_once")

CPU = torch.device("cpu")
PROMPTS = [
    "a small red circle on a white background center",
    "a large blue ring on a black background left",
    "a small green cross on a tan background top",
]
SEEDS = [1, 2, 3]


def draw(policy: Policy, guidance_scale: float = 2.5) -> torch.Tensor:
    return sample_images(
        policy, PROMPTS, SEEDS, num_inference_steps=4, guidance_scale=guidance_scale
    )


def test_only_the_adapter_is_trainable(policy: Policy) -> None:
    adapter = policy.trainable_parameters()
    assert len(adapter) > 0
    assert all(".lora_" in name for name in adapter)
    everything = (policy.transformer, policy.vae)
    trainable = [p for module in everything for p in module.parameters() if p.requires_grad]
    assert len(trainable) == len(adapter)


def test_a_fresh_adapter_changes_no_image(policy: Policy) -> None:
    with policy.base_policy():
        base = draw(policy)
    assert torch.equal(draw(policy), base)


def test_an_adapter_in_the_forwards_precision_has_the_gradients_of_a_float32_one(
    tiny: TinyModels, adapter: Path
) -> None:
    def gradients(adapter_dtype: str) -> tuple[torch.dtype, torch.Tensor]:
        config = tiny.config(
            "policy.forward_dtype=bfloat16", f"policy.adapter_dtype={adapter_dtype}"
        ).policy
        policy = load_policy(config, CPU, adapter)
        dtypes: list[torch.dtype] = []
        layer = policy.transformer.transformer_blocks[0].attn.to_q.lora_A["default"]
        layer.register_forward_hook(lambda _m, inputs, _out: dtypes.append(inputs[0].dtype))
        latents = gaussian_noise(SEEDS, policy.latent_shape)
        velocity = policy.velocity(latents, 0.7, policy.embed(PROMPTS), guidance_scale=2.5)
        (velocity - latents).square().mean().backward()
        parameters = policy.trainable_parameters().values()
        assert {p.dtype for p in parameters} == {torch.float32}
        # The text part of the last layer has no effect.
        return dtypes[0], torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])

    computed, ours = gradients("auto")
    in_float32, theirs = gradients("float32")
    assert (computed, in_float32) == (torch.bfloat16, torch.float32)
    assert torch.nn.functional.cosine_similarity(ours, theirs, dim=0) > 0.999


def test_a_trained_adapter_changes_images_but_not_those_of_the_base_policy(
    policy: Policy,
) -> None:
    base = draw(policy)
    with torch.no_grad():
        for parameter in policy.trainable_parameters().values():
            parameter.add_(0.1)
    changed = draw(policy)
    assert (changed - base).abs().max() > 0.01
    with policy.base_policy():
        assert torch.equal(draw(policy), base)
    assert torch.equal(draw(policy), changed)


@pytest.mark.parametrize("guidance_scale", [1.0, 2.5])
def test_images_are_those_of_the_plain_pipeline(
    policy: Policy, tiny: TinyModels, guidance_scale: float
) -> None:
    plain = StableDiffusion3Pipeline.from_pretrained(tiny.pipeline)
    theirs = sample_with_diffusers(
        plain, PROMPTS, SEEDS, like=policy, guidance_scale=guidance_scale
    )
    ours = draw(policy, guidance_scale)
    # Ours are rounded to 8 bits.
    torch.testing.assert_close(ours, theirs, atol=0.5 / 255 + 1e-4, rtol=0)


def test_an_image_does_not_depend_on_its_batch(trained: Policy) -> None:
    alone = sample_images(
        trained, PROMPTS[1:2], SEEDS[1:2], num_inference_steps=4, guidance_scale=2.5
    )
    torch.testing.assert_close(draw(trained)[1:2], alone, atol=1.5 / 255, rtol=0)


def test_images_have_only_the_values_of_eight_bit_files(policy: Policy) -> None:
    levels = draw(policy) * 255
    torch.testing.assert_close(levels, levels.round(), atol=1e-4, rtol=0)


def test_a_saved_adapter_draws_the_same_images_in_plain_diffusers(
    trained: Policy, adapter: Path, tiny: TinyModels
) -> None:
    plain = StableDiffusion3Pipeline.from_pretrained(tiny.pipeline)
    plain.load_lora_weights(adapter)
    theirs = sample_with_diffusers(plain, PROMPTS, SEEDS, like=trained)
    torch.testing.assert_close(draw(trained), theirs, atol=0.5 / 255 + 1e-3, rtol=0)


def test_an_adapter_loads_again_into_another_policy(
    trained: Policy, adapter: Path, tiny: TinyModels
) -> None:
    other = load_policy(tiny.config().policy, CPU, adapter)
    assert torch.equal(draw(other), draw(trained))


def test_an_adapter_loads_in_plain_peft(trained: Policy, adapter: Path, tiny: TinyModels) -> None:
    from diffusers import SD3Transformer2DModel
    from peft import PeftModel

    bare = SD3Transformer2DModel.from_pretrained(tiny.pipeline / "transformer")
    plain = PeftModel.from_pretrained(bare, str(adapter)).eval()
    embeddings = trained.embed(PROMPTS)
    latents = gaussian_noise(SEEDS, trained.latent_shape)
    with torch.no_grad():
        (theirs,) = plain(
            hidden_states=latents,
            timestep=torch.full((3,), 500.0),
            encoder_hidden_states=embeddings.stack("context"),
            pooled_projections=embeddings.stack("pooled"),
            return_dict=False,
        )
        ours = trained.velocity(latents, 0.5, embeddings, guidance_scale=1.0)
    torch.testing.assert_close(ours, theirs)


def test_alpha_survives_in_both_layouts(tiny: TinyModels, tmp_path: Path) -> None:
    from advgrpo.models.policies.adapter import save_adapter

    config = tiny.config("policy.adapter.rank=4", "policy.adapter.alpha=12").policy
    policy = load_policy(config, CPU)
    save_adapter(tmp_path, policy.trainable_parameters(), config.adapter)
    peft = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (peft["r"], peft["lora_alpha"]) == (4, 12)
    with safe_open(tmp_path / "pytorch_lora_weights.safetensors", framework="pt") as file:
        metadata = json.loads(file.metadata()["lora_adapter_metadata"])
    assert metadata["transformer.lora_alpha"] == 12


def test_metadata_is_sorted_where_the_library_orders_it_randomly(tmp_path: Path) -> None:
    for number in range(8):
        save_adapter(tmp_path / str(number), {"a.lora_A.weight": torch.ones(2)}, Sd3AdapterConfig())
    contents = {path.read_bytes() for path in tmp_path.glob("*/pytorch_lora_weights.safetensors")}
    assert len(contents) == 1
    with safe_open(tmp_path / "0" / "pytorch_lora_weights.safetensors", framework="pt") as file:
        assert set(file.metadata()) == {"format", "lora_adapter_metadata"}
        assert file.get_tensor("transformer.a.lora_A.weight").tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("policy.adapter.rank=3", "policy.adapter.rank"),
        ("policy.adapter.target_modules=[attn.to_q]", "policy.adapter.target_modules"),
    ],
)
def test_an_adapter_of_another_shape_is_refused_with_the_setting(
    adapter: Path, tiny: TinyModels, override: str, named: str
) -> None:
    with pytest.raises(WeightsError, match=named):
        load_policy(tiny.config(override).policy, CPU, adapter)


def test_a_truncated_adapter_is_refused_with_its_path(adapter: Path, tiny: TinyModels) -> None:
    path = adapter / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(WeightsError, match=r"adapter_model\.safetensors"):
        load_policy(tiny.config().policy, CPU, adapter)


def test_modules_that_the_model_does_not_have_are_refused(tiny: TinyModels) -> None:
    with pytest.raises(WeightsError, match="target_modules"):
        load_policy(tiny.config("policy.adapter.target_modules=[nothing]").policy, CPU)
    # As after a forgotten comma, which joins two names.
    joined = tiny.config("policy.adapter.target_modules=[attn.to_q, attn.to_kattn.to_v]")
    with pytest.raises(WeightsError, match=r"the transformer has no module 'attn.to_kattn.to_v'"):
        load_policy(joined.policy, CPU)


@pytest.mark.parametrize("fault", ["missing", "truncated", "other"])
def test_wrong_weights_are_refused_with_their_folder(
    tiny: TinyModels, tmp_path: Path, fault: str
) -> None:
    folder = tmp_path / "weights"
    if fault == "truncated":
        shutil.copytree(tiny.pipeline, folder)
        path = folder / "transformer" / "diffusion_pytorch_model.safetensors"
        path.write_bytes(path.read_bytes()[:5000])
    elif fault == "other":
        shutil.copytree(tiny.dino, folder)
    with pytest.raises(WeightsError, match="weights"):
        load_policy(tiny.config(f"policy.weights.location={folder}").policy, CPU)


@pytest.mark.parametrize("part", ["transformer", "text_encoder"])
def test_weights_that_lack_a_tensor_are_refused_with_its_name(
    tiny: TinyModels, tmp_path: Path, part: str
) -> None:
    # Otherwise the libraries fill it with random numbers.
    folder = tmp_path / "weights"
    shutil.copytree(tiny.pipeline, folder)
    path = next((folder / part).glob("*.safetensors"))
    tensors = load_file(path)
    lacking = next(name for name in tensors if "bias" in name)
    save_file({k: v for k, v in tensors.items() if k != lacking}, path, {"format": "pt"})
    with pytest.raises(WeightsError, match=re.escape(lacking)):
        load_policy(tiny.config(f"policy.weights.location={folder}").policy, CPU).embed(PROMPTS)


def test_each_prompt_is_encoded_once(policy: Policy) -> None:
    first = policy.embed(PROMPTS)
    again = policy.embed([PROMPTS[2], PROMPTS[0]])
    assert torch.equal(again.stack("context")[1], first.stack("context")[0])
    assert torch.equal(again.stack("pooled")[0], first.stack("pooled")[2])


def test_an_embedding_does_not_depend_on_what_was_encoded_before(tiny: TinyModels) -> None:
    together, apart = (load_policy(tiny.config().policy, CPU) for _ in range(2))
    apart.embed(PROMPTS[2:])

    first, second = together.embed(PROMPTS), apart.embed(PROMPTS)

    assert torch.equal(first.stack("context"), second.stack("context"))
    assert torch.equal(first.stack("pooled"), second.stack("pooled"))


def test_another_adapter_draws_as_it_does_in_its_own_policy_and_leaves_no_trace(
    trained: Policy, tiny: TinyModels, tmp_path: Path
) -> None:
    before = draw(trained)
    own = load_policy(
        tiny.config("policy.adapter.rank=4", "policy.adapter.alpha=2").policy, CPU, seed=7
    )
    with torch.no_grad():
        for parameter in own.trainable_parameters().values():
            parameter.add_(0.2)
    save_adapter(tmp_path, own.trainable_parameters(), own.config.adapter)

    with trained.other_adapter(tmp_path, own.config.adapter):
        assert torch.equal(draw(trained), draw(own))
        with trained.base_policy():
            assert torch.equal(draw(trained), draw(load_policy(tiny.config().policy, CPU)))

    assert torch.equal(draw(trained), before)
    assert all(".lora_" in name for name in trained.trainable_parameters())
    assert len(trained.trainable_parameters()) == len(own.trainable_parameters())


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("policy.adapter.rank=4", "has rank 16"),
        ("policy.adapter.target_modules=[to_q]", "for other modules"),
        ("policy.adapter.target_modules=[nothing]", "for another base model"),
    ],
)
def test_another_adapter_that_does_not_fit_is_refused_and_leaves_no_trace(
    trained: Policy, tiny: TinyModels, adapter: Path, override: str, named: str
) -> None:
    before = draw(trained)
    other = tiny.config(override).policy.adapter

    with pytest.raises(WeightsError, match=named), trained.other_adapter(adapter, other):
        pass

    assert torch.equal(draw(trained), before)
