import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from advgrpo.config.base import Weights
from advgrpo.config.reference_images import DiffusersSource as Settings
from advgrpo.config.reference_images import ReferenceImagesConfig
from advgrpo.errors import AdvGrpoError, ConfigError, ReferenceImageError, WeightsError
from advgrpo.pocket.models import build_pipeline, seeded
from advgrpo.records import PromptSet
from advgrpo.reference_images.diffusers_source import DiffusersSource
from advgrpo.reference_images.generation import generate_reference_images
from advgrpo.reference_images.image_set import validate_reference_images
from tests.models.policies.families import build_qwen_image

PIXELS = 32
CPU = torch.device("cpu")
PROMPTS = ["a small red circle on a black background center", "a large blue ring"]


@pytest.fixture(scope="module")
def qwen_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("qwen")
    with seeded(0):
        build_qwen_image().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def sd3_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sd3")
    build_pipeline(seed=0).save_pretrained(folder)
    return folder


def settings(folder: Path, **changes: object) -> Settings:
    plain: Mapping[str, object] = {
        "weights": Weights(location=str(folder)),
        "num_inference_steps": 2,
        "guidance_scale": 3.0,
        "dtype": "float32",
    }
    return Settings.model_validate({**plain, **changes})


def load(folder: Path, device: torch.device = CPU, **changes: object) -> DiffusersSource:
    return DiffusersSource(settings(folder, **changes), resolution_pixels=PIXELS, device=device)


def test_reference_images_are_generated_on_a_gpu_in_bfloat16(
    sd3_folder: Path, gpu: torch.device
) -> None:
    source = load(sd3_folder, gpu, dtype="bfloat16")
    parameters = [
        parameter
        for part in source._pipeline.components.values()
        if isinstance(part, torch.nn.Module)
        for parameter in part.parameters()
    ]
    kinds = {(parameter.device.type, parameter.dtype) for parameter in parameters}
    assert kinds == {("cuda", torch.bfloat16)}
    images = source.draw(PROMPTS, [1, 2])
    assert (images.device.type, images.dtype) == ("cpu", torch.float32)


def test_stable_diffusion_3_generates_an_image_per_prompt(sd3_folder: Path) -> None:
    images = load(sd3_folder).draw(PROMPTS, [1, 2**62])
    assert images.shape == (2, 3, PIXELS, PIXELS)
    assert images.dtype == torch.float32
    assert 0 <= images.min() < images.max() <= 1


def test_an_image_depends_on_prompt_and_seed_alone(sd3_folder: Path) -> None:
    source = load(sd3_folder)
    together = source.draw([PROMPTS[0], *PROMPTS], [1, 2, 3])
    before = torch.random.get_rng_state()
    alone = load(sd3_folder).draw([PROMPTS[0]], [2])
    assert torch.allclose(alone[0], together[1], atol=1e-5)
    assert not torch.allclose(together[0], together[1], atol=1e-2)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize(
    "change",
    [
        {"guidance_scale": 9.0},
        {"negative_prompt": "a green cross"},
        {"prompt_suffixes": {"en": " on a teal background"}},
        {"num_inference_steps": 3},
        {"dtype": "bfloat16"},
    ],
)
def test_every_setting_changes_images_and_provenance(
    sd3_folder: Path, change: Mapping[str, object]
) -> None:
    plain, changed = load(sd3_folder), load(sd3_folder, **change)
    assert changed.provenance != plain.provenance
    assert not torch.equal(changed.draw(PROMPTS, [1, 2]), plain.draw(PROMPTS, [1, 2]))


def test_the_suffix_of_its_language_is_appended_to_a_prompt(sd3_folder: Path) -> None:
    suffixed = load(sd3_folder, prompt_suffixes={"en": " blue", "zh": " ring"})
    images = suffixed.draw(["a circle", "红 circle"], [1, 2])
    written_out = load(sd3_folder).draw(["a circle blue", "红 circle ring"], [1, 2])
    assert torch.equal(images, written_out)
    assert not torch.equal(images, load(sd3_folder).draw(["a circle", "红 circle"], [1, 2]))


def test_qwen_image_is_guided_by_its_own_argument(qwen_folder: Path) -> None:
    source = load(qwen_folder, guidance_argument="true_cfg_scale")
    assert source.provenance["pipeline"] == "QwenImagePipeline"
    assert source.provenance["true_cfg_scale"] == 3.0
    images = source.draw(PROMPTS, [1, 2])
    assert images.shape == (2, 3, PIXELS, PIXELS)
    stronger = load(qwen_folder, guidance_argument="true_cfg_scale", guidance_scale=9.0)
    assert not torch.equal(stronger.draw(PROMPTS, [1, 2]), images)


def test_a_complete_set_is_generated_by_a_pipeline(sd3_folder: Path, tmp_path: Path) -> None:
    prompts = PromptSet(tuple(PROMPTS), digest="")
    config = ReferenceImagesConfig(
        source=settings(sd3_folder), resolution_pixels=PIXELS, batch_size=3
    )
    generate_reference_images(
        load(sd3_folder), prompts, config, images_per_prompt=2, seed=0, location=tmp_path
    )
    images = validate_reference_images(tmp_path, prompts, 2, PIXELS, seed=0)
    assert images.provenance["source"] == load(sd3_folder).provenance


def test_the_provenance_distinguishes_weights_by_content(sd3_folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    build_pipeline(seed=1).save_pretrained(other)
    first, second = load(sd3_folder).provenance, load(other).provenance
    assert first["weights_version"] != second["weights_version"]
    assert load(sd3_folder).provenance == first


def test_a_guidance_argument_that_the_pipeline_lacks_is_refused(sd3_folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"guidance_argument='true_cfg_scale': Stable") as caught:
        load(sd3_folder, guidance_argument="true_cfg_scale")
    assert caught.value.repair


def test_guidance_that_would_have_no_effect_is_refused(qwen_folder: Path) -> None:
    with pytest.raises(ConfigError, match="guidance_scale=3 has no effect"):
        load(qwen_folder, guidance_argument="true_cfg_scale", negative_prompt=None)


def test_a_resolution_that_the_pipeline_refuses_is_a_settings_error(sd3_folder: Path) -> None:
    source = DiffusersSource(settings(sd3_folder), resolution_pixels=30, device=torch.device("cpu"))
    with pytest.raises(ConfigError, match="divisible by 8") as caught:
        source.draw(PROMPTS, [1, 2])
    assert "resolution_pixels" in caught.value.repair


def _remove(name: str) -> Callable[[Path], None]:
    def remove(folder: Path) -> None:
        (folder / name).unlink()

    return remove


def _cut(name: str) -> Callable[[Path], None]:
    def cut(folder: Path) -> None:
        (folder / name).write_bytes((folder / name).read_bytes()[:-100])

    return cut


def _drop_tensor(name: str) -> Callable[[Path], None]:
    def drop(folder: Path) -> None:
        tensors = load_file(folder / name)
        del tensors[sorted(tensors)[0]]
        save_file(tensors, folder / name, metadata={"format": "pt"})

    return drop


def _reshape_tensor(name: str) -> Callable[[Path], None]:
    def reshape(folder: Path) -> None:
        tensors = load_file(folder / name)
        tensors[sorted(tensors)[0]] = torch.zeros(7, 7)
        save_file(tensors, folder / name, metadata={"format": "pt"})

    return reshape


def _pickle(name: str, pickled: str) -> Callable[[Path], None]:
    def pickle(folder: Path) -> None:
        torch.save(load_file(folder / name), (folder / name).parent / pickled)
        (folder / name).unlink()

    return pickle


def _name_pipeline(name: str) -> Callable[[Path], None]:
    def rename(folder: Path) -> None:
        index = json.loads((folder / "model_index.json").read_text())
        (folder / "model_index.json").write_text(json.dumps({**index, "_class_name": name}))

    return rename


TRANSFORMER = "transformer/diffusion_pytorch_model.safetensors"
TEXT_ENCODER = "text_encoder/model.safetensors"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_remove("model_index.json"), r"model_index\.json is missing"),
        (_cut("model_index.json"), "cannot be read"),
        (_name_pipeline("NoSuchPipeline"), "'NoSuchPipeline', which diffusers cannot load"),
        (_name_pipeline("StableDiffusionUpscalePipeline"), "not a text-to-image pipeline"),
        (_remove(TRANSFORMER), "cannot be loaded"),
        (_remove(TEXT_ENCODER), "cannot be loaded"),
        (_remove("vae/config.json"), "cannot be loaded"),
        (_remove("tokenizer_3/tokenizer.json"), "has no vocabulary"),
        (_cut(TRANSFORMER), "cannot be loaded"),
        (_cut(TEXT_ENCODER), "cannot be loaded"),
        (_drop_tensor(TRANSFORMER), "lack 1 tensors of SD3Transformer2DModel"),
        (_drop_tensor(TEXT_ENCODER), "lack 1 tensors of CLIPTextModelWithProjection"),
        (_reshape_tensor(TRANSFORMER), "cannot be loaded"),
        (_reshape_tensor(TEXT_ENCODER), "cannot be loaded"),
        (_pickle(TRANSFORMER, "diffusion_pytorch_model.bin"), "cannot be loaded"),
        (_pickle(TEXT_ENCODER, "pytorch_model.bin"), "cannot be loaded"),
    ],
)
def test_wrong_weights_are_refused(
    sd3_folder: Path, tmp_path: Path, damage: Callable[[Path], None], message: str
) -> None:
    folder = tmp_path / "damaged"
    shutil.copytree(sd3_folder, folder)
    damage(folder)
    with pytest.raises(WeightsError, match=message) as caught:
        load(folder)
    assert str(folder) in caught.value.message or "Pipeline" in caught.value.message
    assert caught.value.repair


def test_missing_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(AdvGrpoError, match="nowhere"):
        load(tmp_path / "nowhere")


def test_an_image_that_a_safety_checker_blanked_is_refused(sd3_folder: Path) -> None:
    source = load(sd3_folder)
    draw = source._pipeline

    def checked(**arguments: object) -> object:
        output = draw(**arguments)
        output["nsfw_content_detected"] = [False, True]
        return output

    source._pipeline = checked
    with pytest.raises(ReferenceImageError, match=r"blanked the image of 'a large blue ring'"):
        source.draw(PROMPTS, [1, 2])
