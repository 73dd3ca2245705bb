"""Load parts of a Stable Diffusion 3 pipeline, or say why not."""

from collections.abc import Collection
from pathlib import Path

import torch
from diffusers import StableDiffusion3Pipeline
from safetensors import SafetensorError, safe_open

from advgrpo.config import Sd3PolicyConfig
from advgrpo.errors import WeightsError
from advgrpo.models.backbones.loading import weights_files
from advgrpo.storage import local_folder
from advgrpo.strict_json import parsed_object

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
INDEX_FILE = "model_index.json"
PIPELINE = "StableDiffusion3Pipeline"

MODELS = ("transformer", "vae")
TEXT_ENCODERS = ("text_encoder", "text_encoder_2", "text_encoder_3")
TOKENIZERS = ("tokenizer", "tokenizer_2", "tokenizer_3")

ARCHITECTURES = {
    "transformer": "SD3Transformer2DModel",
    "vae": "AutoencoderKL",
    "text_encoder": "CLIPTextModelWithProjection",
    "text_encoder_2": "CLIPTextModelWithProjection",
    "text_encoder_3": "T5EncoderModel",
}


def load_models(config: Sd3PolicyConfig) -> StableDiffusion3Pipeline:
    """Load transformer, VAE and scheduler, on the CPU.

    Raises:
        WeightsError: If weights are missing, damaged, pickled or of another architecture.
    """
    return _load(config, MODELS)


def load_text_encoders(config: Sd3PolicyConfig) -> StableDiffusion3Pipeline:
    """Load text encoders and tokenizers, on the CPU.

    Raises:
        WeightsError: If weights are missing, damaged, pickled or of another architecture.
    """
    return _load(config, (*TEXT_ENCODERS, *TOKENIZERS))


def pipeline_folder(config: Sd3PolicyConfig) -> tuple[Path, set[str]]:
    """Bring a pipeline to the local disk and read which parts it has.

    Returns:
        Its folder, and the names of its parts: published pipelines come with and without T5.

    Raises:
        WeightsError: If it is no Stable Diffusion 3 pipeline in diffusers' layout.
    """
    folder = local_folder(config.weights)
    path = folder / INDEX_FILE
    try:
        index = parsed_object(path.read_text(encoding="utf-8"))
        found = index["_class_name"]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise WeightsError(
            f"policy.weights: {folder} does not hold a pipeline, {INDEX_FILE} cannot be read: "
            f"{error!r}",
            repair="give a complete folder in diffusers' layout with safetensors weights",
        ) from error
    if found != PIPELINE:
        raise WeightsError(
            f"policy.weights: {folder} holds a {found}, not a {PIPELINE}",
            repair="give a Stable Diffusion 3 model, or another policy type",
        )
    classes = {
        name: part[1] if len(part) == 2 else part
        for name, part in index.items()
        if isinstance(part, list)
    }
    for name, architecture in ARCHITECTURES.items():
        if classes.get(name) not in (None, architecture):
            raise WeightsError(
                f"policy.weights: {name} in {folder} is a {classes[name]}, not a {architecture}",
                repair="give a Stable Diffusion 3 model",
            )
    return folder, {name for name, kind in classes.items() if kind is not None}


def _load(config: Sd3PolicyConfig, parts: Collection[str]) -> StableDiffusion3Pipeline:
    folder, there = pipeline_folder(config)
    stored = {name: _stored_names(folder / name) for name in there & set(parts) & {*ARCHITECTURES}}
    left_out = {*ARCHITECTURES, *TOKENIZERS} - (there & set(parts))
    try:
        pipeline = StableDiffusion3Pipeline.from_pretrained(
            folder,
            **dict.fromkeys(left_out),
            dtype={
                "transformer": DTYPES[config.forward_dtype],
                "vae": DTYPES[config.decode_dtype],
                "default": DTYPES[config.text_dtype],
            },
            use_safetensors=True,
            local_files_only=True,
        )
    except (OSError, ValueError, KeyError, SafetensorError, RuntimeError) as error:
        raise WeightsError(
            f"policy.weights: {folder} does not hold a Stable Diffusion 3 pipeline: {error}",
            repair="give a complete folder in diffusers' layout with safetensors weights",
        ) from error
    for name, tensors in stored.items():
        part = pipeline.components[name]
        _refuse_missing_tensors(part, tensors, folder / name)
        part.requires_grad_(False).eval()
    return pipeline


def _stored_names(folder: Path) -> set[str]:
    """List the tensors of a model folder from the heads of its files, which say their length."""
    try:
        files = weights_files(folder)
    except WeightsError as error:
        raise WeightsError(f"policy.weights: {error.message}", repair=error.repair) from error
    names: set[str] = set()
    for path in files:
        try:
            with safe_open(path, framework="pt") as file:
                names.update(file.keys())
        except (OSError, SafetensorError) as error:
            raise WeightsError(
                f"policy.weights: {path} is cut short or damaged: {error}",
                repair="fetch the file again, whole",
            ) from error
    return names


def _refuse_missing_tensors(part: torch.nn.Module, stored: set[str], folder: Path) -> None:
    # The libraries fill what a file lacks with random numbers and only warn.
    state = part.state_dict()
    # Tied tensors share their memory with one that is stored.
    tied = {tensor.data_ptr() for key, tensor in state.items() if key in stored}
    missing = [key for key, tensor in state.items() if tensor.data_ptr() not in tied]
    if missing:
        raise WeightsError(
            f"policy.weights: {folder} lacks {len(missing)} tensors, for instance {missing[0]}",
            repair="fetch the weights again, whole",
        )
