"""Parameters of models whose architecture the plan does not know."""

from pathlib import Path

import pytest
import torch
from diffusers import (
    AutoencoderKLFlux2,
    AutoencoderKLQwenImage,
    Flux2Transformer2DModel,
    FluxTransformer2DModel,
    QwenImageTransformer2DModel,
    ZImageTransformer2DModel,
)
from transformers import Qwen3Config, Qwen3Model

from advgrpo.config import resolve
from advgrpo.config.base import Weights
from advgrpo.planning.counts import PARAMETERS, parameters
from advgrpo.planning.encoder_architectures import T5Encoder
from advgrpo.planning.memory import encoding_memory, gpu_memory
from advgrpo.planning.models import models_of
from advgrpo.planning.published import PUBLISHED
from tests.models.policies.families import FAMILIES, Family

PRESETS = ("z_image_dino", "qwen_image_dino", "flux1_dino", "flux2_klein_dino")


def counted(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_local_files_have_as_many_parameters_as_their_models(
    family: Family, tmp_path: Path
) -> None:
    folder, pipeline = family.save(tmp_path), family.build()
    weights = Weights(location=str(folder))
    assert parameters(weights, "transformer") == counted(pipeline.transformer)
    encoders = [name for name in pipeline.components if name.startswith("text_encoder")]
    # Embeddings that a file stores once may be counted twice in memory.
    least = sum(counted(pipeline.components[name]) for name in encoders)
    assert parameters(weights, *encoders) == pytest.approx(least, rel=0.05)


def test_a_damaged_or_missing_file_leaves_the_count_unknown(tmp_path: Path) -> None:
    weights = Weights(location=str(tmp_path))
    assert parameters(weights, "transformer") is None
    (tmp_path / "transformer").mkdir()
    for data in (b"", b"\xff" * 8, (2).to_bytes(8, "little") + b"[]"):
        (tmp_path / "transformer" / "model.safetensors").write_bytes(data)
        assert parameters(weights, "transformer") is None


def test_published_models_have_as_many_parameters_as_listed() -> None:
    klein = {"num_layers": 5, "num_single_layers": 20, "num_attention_heads": 24}
    qwen3 = {"hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 36}
    with torch.device("meta"):
        built = {
            ("Tongyi-MAI/Z-Image", "transformer"): ZImageTransformer2DModel(),
            ("Tongyi-MAI/Z-Image", "text_encoder"): Qwen3Model(
                Qwen3Config(**qwen3, num_attention_heads=32, num_key_value_heads=8, head_dim=128)
            ),
            ("Qwen/Qwen-Image", "transformer"): QwenImageTransformer2DModel(),
            ("Qwen/Qwen-Image", "vae"): AutoencoderKLQwenImage(),
            ("black-forest-labs/FLUX.1-dev", "transformer"): FluxTransformer2DModel(
                guidance_embeds=True
            ),
            ("black-forest-labs/FLUX.1-schnell", "transformer"): FluxTransformer2DModel(),
            ("black-forest-labs/FLUX.2-klein-base-4B", "vae"): AutoencoderKLFlux2(),
            ("black-forest-labs/FLUX.2-klein-base-4B", "transformer"): Flux2Transformer2DModel(
                **klein, joint_attention_dim=7680, guidance_embeds=False
            ),
        }
    for (name, part), model in built.items():
        assert PARAMETERS[f"hub://{name}"][part] == counted(model), name
    t5 = PUBLISHED["hub://stabilityai/stable-diffusion-3.5-medium"]["text_encoder_3"]
    listed = PARAMETERS["hub://black-forest-labs/FLUX.1-dev"]["text_encoder_2"]
    assert listed == T5Encoder.read(t5).parameters


@pytest.mark.parametrize("preset", PRESETS)
def test_a_plan_counts_the_weights_of_every_preset(preset: str) -> None:
    run = resolve(preset, needed=())
    models = models_of(run)
    parts = {part.name: part.bytes for part in gpu_memory(run, models, 8)}
    transformer = PARAMETERS[run.policy.weights.location]["transformer"]
    assert parts["transformer"] == 2 * transformer
    assert parts["VAE"] is not None
    assert encoding_memory(run, models).bytes is not None
