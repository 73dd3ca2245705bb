"""The source `diffusers`: images of any text-to-image pipeline of diffusers."""

import importlib
import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import diffusers
import torch
from jaxtyping import Float
from safetensors import SafetensorError
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from advgrpo.config import reference_images as settings
from advgrpo.data.prompts import language_of
from advgrpo.errors import ConfigError, ReferenceImageError, WeightsError
from advgrpo.models.backbones.loading import fingerprint
from advgrpo.storage.fetch import local_folder
from advgrpo.strict_json import load_json_object

_INDEX_FILE = "model_index.json"
_LIBRARIES = ("diffusers", "transformers")
_NEEDED = ("prompt", "height", "width", "num_inference_steps", "generator", "output_type")


class DiffusersSource:
    """A text-to-image pipeline as a source of reference images.

    Args:
        config: Weights, steps, guidance and prompt suffixes.
        resolution_pixels: Height and width of the images.
        device: Device of the pipeline. Noise is sampled on the CPU, so it does not depend on it.

    Raises:
        WeightsError: If weights are missing, damaged, pickled or of another architecture, or the
            pipeline is not text-to-image.
        ConfigError: If the pipeline has no `config.guidance_argument` or no negative prompts.
    """

    def __init__(
        self, config: settings.DiffusersSource, *, resolution_pixels: int, device: torch.device
    ) -> None:
        folder = local_folder(config.weights)
        index = _read_index(folder)
        self._config = config
        self._pixels = resolution_pixels
        pipeline_class = _pipeline_class(folder, index)
        # Before the weights are loaded, which takes minutes.
        _check_arguments(pipeline_class, config)
        self._provenance = _provenance(config, folder, pipeline_class.__name__)
        self._pipeline = _load(folder, index, pipeline_class, config.dtype).to(device)
        self._pipeline.set_progress_bar_config(disable=True)

    @property
    def provenance(self) -> Mapping[str, str | int | float]:
        """Pipeline, weights and all settings that an image depends on."""
        return self._provenance

    def draw(
        self, prompts: Sequence[str], seeds: Sequence[int]
    ) -> Float[Tensor, "batch 3 height width"]:
        """Draw one image for each prompt.

        Args:
            prompts: One per image; the suffix of its language is appended.
            seeds: One per image.

        Returns:
            RGB in [0, 1], float32, on the CPU.

        Raises:
            ReferenceImageError: If the pipeline's safety checker blanked an image.
            ConfigError: If the pipeline rejects a setting, such as the resolution.
        """
        config = self._config
        arguments: dict[str, Any] = {config.guidance_argument: config.guidance_scale}
        if config.negative_prompt is not None:
            arguments["negative_prompt"] = [config.negative_prompt] * len(prompts)
        try:
            output = self._pipeline(
                prompt=[self._with_suffix(prompt) for prompt in prompts],
                height=self._pixels,
                width=self._pixels,
                num_inference_steps=config.num_inference_steps,
                # One generator per image, so that an image does not depend on the others in its
                # batch.
                generator=[torch.Generator().manual_seed(seed) for seed in seeds],
                # Tensors keep the pipeline's precision; the PIL output would be rounded here
                # already.
                output_type="pt",
                **arguments,
            )
        except ValueError as error:
            raise ConfigError(
                f"the pipeline at {config.weights.location} rejects the settings of "
                f"reference_images: {error}",
                repair="change reference_images.resolution_pixels or reference_images.source "
                "accordingly",
            ) from error
        # Only some pipelines have a safety checker, and it returns None if it is disabled.
        blanked = output.get("nsfw_content_detected") or [False] * len(prompts)
        for prompt, is_blank in zip(prompts, blanked, strict=True):
            if is_blank:
                raise ReferenceImageError(
                    f"the pipeline's safety checker blanked the image of {prompt!r}",
                    repair="remove the prompt from the prompt file",
                )
        images: Tensor = output.images
        return images.to("cpu", torch.float32)

    def _with_suffix(self, prompt: str) -> str:
        suffixes = self._config.prompt_suffixes
        return prompt + (suffixes.zh if language_of(prompt) == "zh" else suffixes.en)


def _read_index(folder: Path) -> dict[str, Any]:
    path = folder / _INDEX_FILE
    try:
        return load_json_object(path.read_bytes())
    except FileNotFoundError as error:
        raise WeightsError(
            f"{folder} is not a pipeline: {_INDEX_FILE} is missing",
            repair="set reference_images.source.weights to a pipeline in diffusers' layout",
        ) from error
    except (OSError, ValueError) as error:
        raise WeightsError(
            f"{path} cannot be read: {error}",
            repair="download it again from the source of the model",
        ) from error


def _pipeline_class(folder: Path, index: Mapping[str, Any]) -> type[Any]:
    name = str(index.get("_class_name"))
    try:
        found = getattr(diffusers, name)
    # diffusers raises RuntimeError if the import of a lazily loaded module fails.
    except (AttributeError, RuntimeError) as error:
        raise WeightsError(
            f"{folder / _INDEX_FILE} names the pipeline {name!r}, which diffusers cannot load: "
            f"{error}",
            repair="install a version of diffusers that has it, or use another pipeline",
        ) from error
    pipeline_class: type[Any] = found
    return pipeline_class


def _check_arguments(pipeline_class: type[Any], config: settings.DiffusersSource) -> None:
    known = inspect.signature(pipeline_class.__call__).parameters
    if lacking := [name for name in _NEEDED if name not in known]:
        raise WeightsError(
            f"{pipeline_class.__name__} is not a text-to-image pipeline: it lacks the arguments "
            + ", ".join(lacking),
            repair="set reference_images.source.weights to a text-to-image pipeline",
        )
    if config.guidance_argument not in known:
        raise ConfigError(
            f"reference_images.source.guidance_argument={config.guidance_argument!r}: "
            f"{pipeline_class.__name__} has no such argument",
            repair="set it to the name of the pipeline's guidance argument",
        )
    if config.negative_prompt is not None and "negative_prompt" not in known:
        raise ConfigError(
            f"reference_images.source.negative_prompt={config.negative_prompt!r}: "
            f"{pipeline_class.__name__} has no negative prompt",
            repair="set it to null",
        )
    true_guidance = config.guidance_argument == "true_cfg_scale" and config.guidance_scale > 1
    if true_guidance and config.negative_prompt is None:
        # The pipelines would sample without guidance, and only log a warning.
        raise ConfigError(
            f"reference_images.source.guidance_scale={config.guidance_scale:g} has no effect "
            "without a negative prompt",
            repair="set reference_images.source.negative_prompt, for instance to one space",
        )


def _load(
    folder: Path, index: Mapping[str, Any], pipeline_class: type[Any], dtype_name: str
) -> Any:  # noqa: ANN401 - diffusers has no types
    dtype: torch.dtype = getattr(torch, dtype_name)
    modules: dict[str, torch.nn.Module] = {}
    try:
        # Modules are loaded here and passed to the pipeline, as its own loading does not return the
        # missing tensors.
        for name, entry in index.items():
            # The index lists components as [library, class].
            if isinstance(entry, list) and entry[0] in _LIBRARIES:
                part = getattr(importlib.import_module(entry[0]), entry[1])
                if issubclass(part, torch.nn.Module):
                    modules[name] = _load_module(part, folder / name, dtype)
                elif issubclass(part, PreTrainedTokenizerBase):
                    _check_vocabulary(part, folder / name)
        return pipeline_class.from_pretrained(
            # Modules of other libraries are loaded by the pipeline, so it must not accept pickles
            # either.
            folder,
            local_files_only=True,
            use_safetensors=True,
            dtype=dtype,
            **modules,
        )
    except (AttributeError, OSError, RuntimeError, ValueError, SafetensorError) as error:
        raise WeightsError(
            f"the pipeline in {folder} cannot be loaded: {error}",
            repair="download it again; convert pickled weights to safetensors",
        ) from error


def _load_module(model_class: type[Any], folder: Path, dtype: torch.dtype) -> torch.nn.Module:
    model, info = model_class.from_pretrained(
        folder,
        local_files_only=True,
        use_safetensors=True,
        output_loading_info=True,
        dtype=dtype,
    )
    # Both libraries initialize missing tensors randomly, and only log a warning.
    if absent := sorted(info["missing_keys"]):
        raise WeightsError(
            f"the weights in {folder} lack {len(absent)} tensors of {model_class.__name__}, for "
            f"instance {absent[0]}",
            repair="download config.json and the weights again, from the same revision",
        )
    loaded: torch.nn.Module = model
    return loaded


def _check_vocabulary(tokenizer_class: type[PreTrainedTokenizerBase], folder: Path) -> None:
    # Without its files, a tokenizer loads all the same, with an empty vocabulary.
    names = tokenizer_class.vocab_files_names.values()
    if not any((folder / name).is_file() for name in names):
        raise WeightsError(
            f"{folder} has no vocabulary ({' or '.join(sorted(names))})",
            repair="download the folder again from the source of the model",
        )


def _provenance(
    config: settings.DiffusersSource, folder: Path, pipeline: str
) -> dict[str, str | int | float]:
    weights = config.weights
    facts: dict[str, str | int | float] = {
        "type": config.type,
        "pipeline": pipeline,
        "weights": weights.location,
        "subfolder": weights.subfolder,
        # A commit identifies the weights of a hub; elsewhere, only their content does.
        "weights_version": weights.revision or fingerprint(sorted(folder.rglob("*.safetensors"))),
        "num_inference_steps": config.num_inference_steps,
        # Under the argument's own name: the same scale has another meaning for another argument.
        config.guidance_argument: config.guidance_scale,
        "prompt_suffix_en": config.prompt_suffixes.en,
        "prompt_suffix_zh": config.prompt_suffixes.zh,
        "dtype": config.dtype,
    }
    # None is left out, because a provenance holds only texts and numbers.
    if config.negative_prompt is not None:
        facts["negative_prompt"] = config.negative_prompt
    return facts
