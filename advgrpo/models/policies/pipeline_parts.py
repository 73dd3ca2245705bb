"""Parts of a pipeline in diffusers' layout, checked as they are loaded."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from advgrpo.config.policy import PolicyConfig
from advgrpo.errors import WeightsError
from advgrpo.models.backbones.loading import weights_files
from advgrpo.storage.fetch import local_folder
from advgrpo.strict_json import load_json_object

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
INDEX_FILE = "model_index.json"


@dataclass(frozen=True)
class PipelineParts:
    """The parts that a family takes from its pipeline, by their folders."""

    pipeline_class: Any
    """A pipeline of diffusers."""

    models: Mapping[str, str]
    """Transformer and VAE -> class name, as the pipeline's index gives it."""

    text_encoders: Mapping[str, str]
    """Text encoder -> class name."""

    tokenizers: tuple[str, ...]

    def load_models(self, config: PolicyConfig) -> Any:  # noqa: ANN401 - diffusers has no types
        """Load transformer, VAE and scheduler, on the CPU.

        Raises:
            WeightsError: If weights are missing, damaged, pickled or of another architecture.
        """
        return self._load(config, self.models)

    def load_text_encoders(self, config: PolicyConfig) -> Any:  # noqa: ANN401
        """Load text encoders and tokenizers, on the CPU.

        Raises:
            WeightsError: If weights are missing, damaged, pickled or of another architecture.
        """
        return self._load(config, (*self.text_encoders, *self.tokenizers))

    def folder(self, config: PolicyConfig) -> tuple[Path, set[str]]:
        """Fetch a pipeline to the local disk and read the names of its parts.

        Returns:
            Its folder, and the parts that it has: some published pipelines lack a text encoder.

        Raises:
            WeightsError: If it is not this family's pipeline in diffusers' layout.
        """
        folder = local_folder(config.weights)
        path = folder / INDEX_FILE
        try:
            index = load_json_object(path.read_text(encoding="utf-8"))
            found = index["_class_name"]
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise WeightsError(
                f"policy.weights: {folder} does not hold a pipeline, {INDEX_FILE} cannot be read: "
                f"{error!r}",
                repair="set policy.weights.location to a complete folder in diffusers' layout with "
                "safetensors weights",
            ) from error
        if found != self._name:
            raise WeightsError(
                f"policy.weights: {folder} holds a {found}, not a {self._name}",
                repair=f"set policy.weights.location to a {self._name}, or policy.type to the "
                f"family of the {found}",
            )
        # An entry is [library, class]; of a part that the pipeline lacks both are null.
        classes = {
            name: part[1] if len(part) == 2 else part
            for name, part in index.items()
            if isinstance(part, list)
        }
        for name, architecture in self._architectures.items():
            if classes.get(name) not in (None, architecture):
                raise WeightsError(
                    f"policy.weights: {name} in {folder} is a {classes[name]}, not a "
                    f"{architecture}",
                    repair=f"set policy.weights.location to a {self._name} with its own {name}",
                )
        return folder, {name for name, kind in classes.items() if kind is not None}

    @property
    def _name(self) -> str:
        return str(self.pipeline_class.__name__)

    @property
    def _architectures(self) -> dict[str, str]:
        return {**self.models, **self.text_encoders}

    def _load(self, config: PolicyConfig, parts: Collection[str]) -> Any:  # noqa: ANN401
        folder, there = self.folder(config)
        wanted = there & set(parts)
        # Before loading, which takes minutes for a large model.
        stored = {name: _stored_names(folder / name) for name in wanted & {*self._architectures}}
        left_out = {*self._architectures, *self.tokenizers} - wanted
        try:
            pipeline = self.pipeline_class.from_pretrained(
                folder,
                # diffusers does not load a part that is passed as None.
                **dict.fromkeys(left_out),
                dtype={
                    "transformer": DTYPES[config.forward_dtype],
                    "vae": DTYPES[config.decode_dtype],
                    "default": DTYPES[config.text_dtype],
                },
                # Without it diffusers falls back to pickles, which can run code.
                use_safetensors=True,
                local_files_only=True,
            )
        except (OSError, ValueError, KeyError, SafetensorError, RuntimeError) as error:
            raise WeightsError(
                f"policy.weights: {folder} cannot be loaded as a {self._name}: {error}",
                repair="set policy.weights.location to a complete folder in diffusers' layout with "
                "safetensors weights",
            ) from error
        for name, tensors in stored.items():
            part = pipeline.components[name]
            _refuse_missing_tensors(part, tensors, folder / name)
            # `from_pretrained` leaves `requires_grad` set, by which `trainable_parameters` selects.
            part.requires_grad_(False).eval()
        return pipeline


def _stored_names(folder: Path) -> set[str]:
    """List the tensors of a model folder from the headers of its files.

    Opening a file also checks its length, so a truncated download is found before loading starts.
    """
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
                f"policy.weights: {path} is truncated or damaged: {error}",
                repair=f"replace {path} by a complete copy",
            ) from error
    return names


def _refuse_missing_tensors(part: torch.nn.Module, stored: set[str], folder: Path) -> None:
    # The libraries initialize missing tensors randomly, and only log a warning.
    # The state dict omits buffers that are not persistent, which no file stores.
    state = part.state_dict()
    # A tied tensor is stored once, under the name of the tensor whose memory it shares.
    tied = {tensor.data_ptr() for key, tensor in state.items() if key in stored}
    missing = [key for key, tensor in state.items() if tensor.data_ptr() not in tied]
    if missing:
        raise WeightsError(
            f"policy.weights: {folder} lacks {len(missing)} tensors, for instance {missing[0]}",
            repair=f"replace {folder} by a complete copy",
        )
