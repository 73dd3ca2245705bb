import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from advgrpo.errors import ConfigError, WeightsError
from advgrpo.models.policies import load_policy
from advgrpo.models.policies.loading import check_policy
from advgrpo.testing import TinyModels

CPU = torch.device("cpu")
WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def folder(tiny: TinyModels, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny.pipeline, tmp_path / "weights"))


def refusal(tiny: TinyModels, folder: Path) -> str:
    config = tiny.config(f"policy.weights.location={folder}").policy
    with pytest.raises(WeightsError) as error:
        load_policy(config, CPU).embed(["a small red circle"])
    assert error.value.repair
    return error.value.message


def test_another_pipeline_is_named(tiny: TinyModels, folder: Path) -> None:
    index = json.loads((folder / "model_index.json").read_text("utf-8"))
    index["_class_name"] = "QwenImagePipeline"
    (folder / "model_index.json").write_text(json.dumps(index), "utf-8")
    assert "QwenImagePipeline, not a StableDiffusion3Pipeline" in refusal(tiny, folder)


def test_another_transformer_is_named(tiny: TinyModels, folder: Path) -> None:
    index = json.loads((folder / "model_index.json").read_text("utf-8"))
    index["transformer"] = ["diffusers", "FluxTransformer2DModel"]
    (folder / "model_index.json").write_text(json.dumps(index), "utf-8")
    assert "transformer in" in refusal(tiny, folder)


@pytest.mark.parametrize("part", [[], ["diffusers"], ["diffusers", {}], ["a", "b", "c"]])
def test_a_part_without_a_class_is_named(
    tiny: TinyModels, folder: Path, part: list[object]
) -> None:
    index = json.loads((folder / "model_index.json").read_text("utf-8"))
    (folder / "model_index.json").write_text(json.dumps({**index, "vae": part}), "utf-8")
    assert f"vae in {folder} is a " in refusal(tiny, folder)


def test_a_text_encoder_of_another_kind_is_refused(tiny: TinyModels, folder: Path) -> None:
    path = folder / "text_encoder" / "config.json"
    path.write_text(
        json.dumps({**json.loads(path.read_text("utf-8")), "model_type": "t5"}), "utf-8"
    )
    assert f"text_encoder in {folder} is a t5, not a clip_text_model" in refusal(tiny, folder)


def test_a_folder_without_an_index_is_refused(tiny: TinyModels, folder: Path) -> None:
    (folder / "model_index.json").unlink()
    assert "model_index.json cannot be read" in refusal(tiny, folder)


@pytest.mark.parametrize("part", ["transformer", "vae", "text_encoder_3"])
def test_a_truncated_file_is_named(tiny: TinyModels, folder: Path, part: str) -> None:
    path = next((folder / part).glob("*.safetensors"))
    path.write_bytes(path.read_bytes()[:-100])
    assert f"{path} is truncated or damaged" in refusal(tiny, folder)


@pytest.mark.parametrize("part", ["transformer", "text_encoder"])
def test_pickled_weights_are_never_read(tiny: TinyModels, folder: Path, part: str) -> None:
    path = next((folder / part).glob("*.safetensors"))
    torch.save(load_file(path), path.with_suffix(".bin"))
    path.unlink()
    assert "pickled weights only" in refusal(tiny, folder)


@pytest.mark.parametrize("part", ["scheduler", "transformer", "vae", "text_encoder", "tokenizer_2"])
@pytest.mark.parametrize("place", ["index", "folder"])
def test_a_missing_part_is_named(tiny: TinyModels, folder: Path, part: str, place: str) -> None:
    if place == "folder":
        shutil.rmtree(folder / part)
    else:
        index = json.loads((folder / "model_index.json").read_text("utf-8"))
        index[part] = [None, None]
        (folder / "model_index.json").write_text(json.dumps(index), "utf-8")
    assert f"{folder} has no {part}" in refusal(tiny, folder)


def test_another_scheduler_is_named(tiny: TinyModels, folder: Path) -> None:
    index = json.loads((folder / "model_index.json").read_text("utf-8"))
    index["scheduler"] = ["diffusers", "UniPCMultistepScheduler"]
    (folder / "model_index.json").write_text(json.dumps(index), "utf-8")
    assert "scheduler in" in refusal(tiny, folder)


def test_a_vae_without_levels_is_refused(tiny: TinyModels, folder: Path) -> None:
    path = folder / "vae" / "config.json"
    settings = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps({**settings, "block_out_channels": 5}), "utf-8")
    assert "vae in" in refusal(tiny, folder)


def test_a_resolution_that_tokens_cannot_tile_is_refused_with_those_that_they_can(
    tiny: TinyModels, folder: Path
) -> None:
    # Nothing large is loaded before.
    (folder / "transformer" / WEIGHTS).unlink()
    settings = tiny.config(f"policy.weights.location={folder}").policy
    config = settings.model_copy(update={"resolution_pixels": 44})
    with pytest.raises(ConfigError, match=r"resolution_pixels=44: is not a multiple of the 8") as e:
        load_policy(config, CPU)
    assert e.value.repair.endswith("to 40 or 48")


def test_an_adapter_for_another_model_is_refused_before_weights_are_loaded(
    tiny: TinyModels, folder: Path, adapter: Path
) -> None:
    (folder / "transformer" / WEIGHTS).unlink()
    settings = json.loads((folder / "transformer" / "config.json").read_text("utf-8"))
    shallow = {**settings, "num_layers": 1}
    (folder / "transformer" / "config.json").write_text(json.dumps(shallow), "utf-8")
    config = tiny.config(f"policy.weights.location={folder}")
    with pytest.raises(WeightsError, match="for another base model"):
        check_policy(config.policy, config.training.sampling, adapter)


def test_weights_of_another_configuration_are_refused(tiny: TinyModels, folder: Path) -> None:
    path = folder / "transformer" / "config.json"
    config = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps({**config, "num_attention_heads": 8}), "utf-8")
    assert "policy.weights" in refusal(tiny, folder)


METRIC = """
import sys, threading
from pathlib import Path
import torch
from advgrpo.models.policies import load_policy
from advgrpo.testing import TinyModels

def private():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) * 1024

models = Path(sys.argv[1])
tiny = TinyModels(*(models / name for name in ("pipeline", "dino", "pickscore")))
config = tiny.config("policy.forward_dtype=bfloat16").policy
before, ended, peaks = private(), threading.Event(), []

def watch():
    while not ended.wait(0.002):
        peaks.append(private())

threading.Thread(target=watch, daemon=True).start()
policy = load_policy(config, torch.device("cpu"))
ended.set()
size = sum(value.nbytes for value in policy.transformer.parameters())
print(size, max(peaks) - before)
"""


@pytest.mark.slow
def test_weights_are_read_once_without_a_second_copy(tmp_path: Path) -> None:
    from diffusers import SD3Transformer2DModel

    from advgrpo.pocket.models import build_transformer
    from advgrpo.testing import write_tiny_models

    tiny = write_tiny_models(tmp_path)
    large = {"num_layers": 5, "num_attention_heads": 20, "caption_projection_dim": 640}
    transformer = SD3Transformer2DModel.from_config({**build_transformer().config, **large})
    # Saved in another precision than it is loaded in, which needs most memory.
    transformer.save_pretrained(tiny.pipeline / "transformer")
    done = subprocess.run(
        [sys.executable, "-c", METRIC, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    size, grown = map(int, done.stdout.split()[-2:])
    assert size > 100e6
    assert grown < 1.6 * size
