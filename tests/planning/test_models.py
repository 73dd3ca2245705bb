"""Models of a run, as they are built without weights."""

import json
from pathlib import Path

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks

from advgrpo.config import resolve
from advgrpo.config.base import Weights
from advgrpo.config.reference_images import DiffusersSource
from advgrpo.errors import WeightsError
from advgrpo.models.backbones.vision import load_vision_backbone
from advgrpo.models.meta import META, parameters
from advgrpo.models.policies import load_policy
from advgrpo.models.policies.loading import policy_class
from advgrpo.models.published import PUBLISHED
from advgrpo.planning.activations import peak_bytes, saved_bytes
from advgrpo.planning.memory import encoding_memory, gpu_memory
from advgrpo.planning.models import build_policy, models_of, pipeline_parameters
from advgrpo.planning.plan import plan_run
from advgrpo.testing import TINY_BACKBONES, write_tiny_backbone
from tests.models.policies.families import FAMILIES, Family

CPU = torch.device("cpu")
COMMIT = "a" * 40
# Parameters of transformer and text encoders, as safetensors' headers on the hub sum up to.
PUBLISHED_PARAMETERS = {
    "stabilityai/stable-diffusion-3.5-medium": (2_243_171_520, 5_580_620_800),
    "stabilityai/stable-diffusion-3.5-large": (8_056_627_520, 5_580_620_800),
    "Tongyi-MAI/Z-Image": (6_154_908_736, 4_022_468_096),
    "Qwen/Qwen-Image": (20_430_401_088, 8_292_166_656),
    "black-forest-labs/FLUX.1-dev": (11_901_408_320, 123_060_480 + 4_762_310_656),
    "black-forest-labs/FLUX.1-schnell": (11_891_178_560, 123_060_480 + 4_762_310_656),
    "black-forest-labs/FLUX.2-klein-base-4B": (3_875_544_576, 4_022_468_096),
    "black-forest-labs/FLUX.2-klein-base-9B": (9_078_581_248, 8_190_735_360),
}
FAMILY_OF = {
    "stabilityai": "sd3",
    "Tongyi-MAI": "z_image",
    "Qwen": "qwen_image",
    "black-forest-labs/FLUX.1": "flux1",
    "black-forest-labs/FLUX.2": "flux2_klein",
}


@pytest.mark.parametrize("name", PUBLISHED_PARAMETERS)
def test_published_models_have_as_many_parameters_as_their_shapes(name: str) -> None:
    family = next(kind for start, kind in FAMILY_OF.items() if name.startswith(start))
    weights = Weights(location=f"hub://{name}", revision=COMMIT)
    place = f"{{location: hub://{name}, revision: {COMMIT}}}"
    run = resolve("sd35m_dino", [f"policy={{type: {family}, weights: {place}}}"], needed=())
    parts = policy_class(run.policy).parts
    assert parts is not None
    transformer = parts.load_models(run.policy, META).transformer
    counts = parameters(transformer), parts.count_text_encoders(run.policy)
    assert counts == PUBLISHED_PARAMETERS[name]
    total = pipeline_parameters(DiffusersSource(weights=weights))
    assert sum(counts) < total < sum(counts) + 200e6


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_a_family_without_weights_is_as_large_as_with_them(family: Family, tmp_path: Path) -> None:
    config = family.settings(family.save(tmp_path), 32)
    built, loaded = build_policy(config), load_policy(config, CPU)
    assert built.latent_shape == loaded.latent_shape
    for part in ("transformer", "vae"):
        theirs = [(each.shape, each.dtype) for each in getattr(loaded, part).parameters()]
        assert [(each.shape, each.dtype) for each in getattr(built, part).parameters()] == theirs
    longest, real = built.embed(["a"]).prompts[0], loaded.embed(["word " * 500]).prompts[0]
    assert {k: v.shape for k, v in longest.items()} == {k: v.shape for k, v in real.items()}


@pytest.mark.parametrize("recomputed", [False, True])
@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_an_update_saves_what_is_counted(family: Family, tmp_path: Path, recomputed: bool) -> None:
    config = family.settings(family.save(tmp_path), 32, gradient_checkpointing=recomputed)
    both = saved_bytes(build_policy(config), images=2, guidance_scale=family.guided)
    counted = both[recomputed]
    policy = load_policy(config, CPU)
    weights = {each.untyped_storage().data_ptr() for each in policy.transformer.parameters()}
    saved: dict[int, torch.Tensor] = {}

    def save(tensor: torch.Tensor) -> torch.Tensor:
        if (key := tensor.untyped_storage().data_ptr()) not in weights:
            saved[key] = tensor
        return tensor

    embeddings = policy.embed(["word " * 500] * 2)
    with saved_tensors_hooks(save, lambda tensor: tensor):
        policy.velocity(
            torch.rand(2, *policy.latent_shape), 0.5, embeddings, guidance_scale=family.guided
        )
    found = sum(each.untyped_storage().nbytes() for each in saved.values())
    # Attention on a CPU keeps what a GPU's kernel does not; hooks do not see checkpoints' inputs.
    assert counted > found if recomputed else counted == pytest.approx(found, rel=0.15)


def test_the_peak_of_a_computation_counts_what_exists_at_once() -> None:
    def run() -> None:
        kept = torch.empty(10, device=META) + 1
        for _ in range(3):
            (kept + 1) * 2
        kept.view(2, 5)

    # The kept tensor and two temporary ones; views take no memory.
    assert peak_bytes(run) == 3 * 10 * 4


@pytest.mark.parametrize("kind", sorted(TINY_BACKBONES))
def test_a_backbone_without_weights_is_as_large_as_with_them(kind: str, tmp_path: Path) -> None:
    folder = write_tiny_backbone(tmp_path, kind)
    run = resolve("pocket", [f"discriminator.weights.location={folder}"])
    backbone = models_of(run).backbone
    loaded = load_vision_backbone(Weights(location=str(folder)), resolution_pixels=48, device=CPU)
    assert parameters(backbone) == parameters(loaded._model)
    assert backbone.config.hidden_size == loaded.width


def test_a_model_that_is_unknown_is_named_with_what_to_give(tmp_path: Path) -> None:
    unknown = Weights(location="hub://someone/model", revision=COMMIT)
    elsewhere = f"policy.weights={{location: hub://someone/model, revision: {COMMIT}}}"
    policy = models_of(resolve("sd35m_dino", [elsewhere], needed=())).policy
    assert "someone/model" in str(policy)
    assert "folder with the config.json" in str(policy)
    for folder in ("transformer", "vae"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "config.json").write_text(
            json.dumps({"_class_name": "FluxTransformer2DModel"}), "utf-8"
        )
    here = resolve("pocket", [f"policy.weights.location={tmp_path}"])
    assert "FluxTransformer2DModel" in str(models_of(here).policy)
    with pytest.raises(WeightsError, match="someone"):
        pipeline_parameters(DiffusersSource(weights=unknown))


@pytest.mark.parametrize(
    "preset", ["z_image_dino", "qwen_image_dino", "flux1_dino", "flux2_klein_dino"]
)
def test_a_plan_knows_all_parts_of_every_preset(preset: str) -> None:
    run = resolve(preset, needed=())
    models = models_of(run)
    assert [part.name for part in gpu_memory(run, models, 8) if part.bytes is None] == []
    assert encoding_memory(run, models).bytes is not None


def test_the_pipeline_of_the_reference_images_is_planned() -> None:
    # Qwen-Image draws them: 20.4 + 8.3 + 0.1 billion parameters in bfloat16.
    part = plan_run(resolve("sd35m_dino", needed=()), 1).generation_memory
    assert part is not None
    assert part.bytes == 2 * (20_430_401_088 + 8_292_166_656 + 126_892_531)
    assert plan_run(resolve("pocket"), 1).generation_memory is None
    assert "hub://Qwen/Qwen-Image" in PUBLISHED
