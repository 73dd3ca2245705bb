"""Parts of a pipeline in diffusers' layout, checked as they are loaded."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from safetensors import SafetensorError

from advgrpo.config.policy import PolicyConfig
from advgrpo.errors import ConfigError, WeightsError
from advgrpo.models.meta import META, build, configuration, count
from advgrpo.models.policies.model_files import check_files, load_model
from advgrpo.models.policies.packing import PATCH
from advgrpo.models.policies.quantization import quantize
from advgrpo.models.policies.saved_adapter import refuse_foreign
from advgrpo.storage.fetch import local_folder
from advgrpo.strict_json import load_json_object

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
INDEX_FILE = "model_index.json"

_SCHEDULER = {"scheduler": "FlowMatchEulerDiscreteScheduler"}


@dataclass(frozen=True)
class PipelineParts:
    """The parts that a family takes from its pipeline, by their folders."""

    pipeline_class: Any
    """A pipeline of diffusers."""

    models: Mapping[str, str]
    """Transformer and VAE -> class of diffusers, as the pipeline's index gives it."""

    text_encoders: Mapping[str, str]
    """Text encoder -> class of transformers."""

    tokenizers: tuple[str, ...]

    optional: tuple[str, ...] = ()
    """Text encoders and tokenizers that a published pipeline may lack."""

    widths: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    """Text encoder -> setting of the transformer with the width of its embeddings, and the number
    of layers that they join."""

    def load_models(self, config: PolicyConfig, device: torch.device) -> Any:  # noqa: ANN401 - diffusers has no types
        """Load transformer, VAE and scheduler, on the CPU; without weights if `device` is meta.

        Raises:
            WeightsError: If weights are missing, damaged, pickled or of another architecture.
        """
        if device == META:
            return self._without_weights(config)
        return self._load(config, (*self.models, *_SCHEDULER))

    def _without_weights(self, config: PolicyConfig) -> Any:  # noqa: ANN401
        models = {}
        for name, dtype in self._dtypes(config).items():
            model = build(self._class(name), configuration(config.weights, name))
            # Not its own `to`, which warns.
            models[name] = torch.nn.Module.to(model, DTYPES[dtype]).requires_grad_(False)
        absent = dict.fromkeys((*self.text_encoders, *self.tokenizers))
        scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
        return self.pipeline_class(scheduler=scheduler, **absent, **models)

    def count_text_encoders(self, config: PolicyConfig) -> int:
        """Count the parameters of the text encoders, without their weights.

        Raises:
            WeightsError: If a configuration cannot be read.
        """
        total = 0
        for name in self.text_encoders:
            try:
                settings = configuration(config.weights, name)
            except WeightsError:
                if name in self.optional:
                    continue
                raise
            total += count(self._class(name), settings)
        return total

    def load_text_encoders(self, config: PolicyConfig) -> Any:  # noqa: ANN401
        """Load text encoders and tokenizers, on the CPU.

        Raises:
            WeightsError: If weights are missing, damaged, pickled or of another architecture.
        """
        return self._load(config, (*self.text_encoders, *self.tokenizers))

    def check(self, config: PolicyConfig, adapter: Path | None = None) -> None:
        """Check a pipeline by its small files, before weights are loaded.

        Args:
            config: The policy's settings.
            adapter: Folder of an adapter for its transformer.

        Raises:
            ConfigError: If the tokens of the transformer cannot tile an image.
            WeightsError: If it is not this family's pipeline, a part is missing, its text encoder
                is that of another size, or the adapter is for another model.
        """
        # Not the text encoders, which no task needs whose prompts were encoded before.
        folder, _ = self._require(config, (*self.models, *_SCHEDULER))
        side, pixels = PATCH * self._stride(config), config.resolution_pixels
        if pixels % side:
            near = max(side, pixels // side * side)
            raise ConfigError(
                f"policy.resolution_pixels={pixels}: is not a multiple of the {side} pixels of a "
                f"token of {folder}",
                repair=f"set it and reference_images.resolution_pixels to {near} or {near + side}",
            )
        self._check_widths(config)
        if adapter is not None:
            # Without memory for the parameters, of which only the names are read.
            transformer = build(self._class("transformer"), self.settings(config, "transformer"))
            refuse_foreign(dict(transformer.named_modules()), adapter)

    def _check_widths(self, config: PolicyConfig) -> None:
        folder, transformer = local_folder(config.weights), self.settings(config, "transformer")
        for name, (setting, layers) in self.widths.items():
            # No task needs a text encoder whose prompts were encoded before.
            if not (folder / name).is_dir():
                continue
            settings = self.settings(config, name)
            settings = settings.get("text_config", settings)
            width, wanted = (
                settings.get("hidden_size", settings.get("d_model")),
                transformer.get(setting),
            )
            if width and wanted and layers * width != wanted:
                raise WeightsError(
                    f"policy.weights: {name} in {folder} has embeddings of width {layers * width}, "
                    f"and the transformer takes {wanted}",
                    repair=f"set policy.weights.location to a {self._name} with its own {name}",
                )

    def _stride(self, config: PolicyConfig) -> int:
        """Return the pixels per latent along a side."""
        vae = self.settings(config, "vae")
        # Each level but the last halves the image; the VAE of Qwen-Image lists only these.
        halving, levels = vae.get("temperal_downsample"), vae.get("block_out_channels", [64])
        if not isinstance(halving or levels, list):
            raise WeightsError(
                f"policy.weights: the config.json of vae in {local_folder(config.weights)} does "
                "not list its levels",
                repair="replace it by that of the published weights",
            )
        return int(2 ** (len(halving) if halving else len(levels) - 1))

    def settings(self, config: PolicyConfig, part: str = "") -> dict[str, Any]:
        """Read the configuration of a part, or the index of the pipeline.

        Raises:
            WeightsError: If it cannot be read.
        """
        folder = local_folder(config.weights)
        path = folder / part / "config.json" if part else folder / INDEX_FILE
        try:
            return load_json_object(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise WeightsError(
                f"policy.weights: {folder} does not hold a pipeline, {path.relative_to(folder)} "
                f"cannot be read: {error!r}",
                repair="set policy.weights.location to a complete folder in diffusers' layout with "
                "safetensors weights",
            ) from error

    def folder(self, config: PolicyConfig) -> tuple[Path, set[str]]:
        """Fetch a pipeline to the local disk and read the names of its parts.

        Returns:
            Its folder, and the parts that it has: some published pipelines lack a text encoder.

        Raises:
            WeightsError: If it is not this family's pipeline in diffusers' layout.
        """
        folder, index = local_folder(config.weights), self.settings(config)
        found = index.get("_class_name")
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
        for name, architecture in {**self._architectures, **_SCHEDULER}.items():
            if classes.get(name) not in (None, architecture):
                raise WeightsError(
                    f"policy.weights: {name} in {folder} is a {classes[name]}, not a "
                    f"{architecture}",
                    repair=f"set policy.weights.location to a {self._name} with its own {name}",
                )
        return folder, {name for name, kind in classes.items() if kind is not None}

    def _require(self, config: PolicyConfig, parts: Collection[str]) -> tuple[Path, set[str]]:
        """Read a pipeline as `folder` does, and refuse it if it lacks one of the given parts."""
        folder, there = self.folder(config)
        # The index may name a part whose folder was not copied.
        lacking = [
            name
            for name in parts
            if name not in self.optional and not (name in there and (folder / name).is_dir())
        ]
        if lacking:
            raise WeightsError(
                f"policy.weights: {folder} has no {', '.join(lacking)}",
                repair=f"set policy.weights.location to a complete {self._name}",
            )
        return folder, there

    @staticmethod
    def _dtypes(config: PolicyConfig) -> dict[str, str]:
        return {"transformer": config.forward_dtype, "vae": config.decode_dtype}

    @property
    def _name(self) -> str:
        return str(self.pipeline_class.__name__)

    @property
    def _architectures(self) -> dict[str, str]:
        return {**self.models, **self.text_encoders}

    def _class(self, part: str) -> Any:  # noqa: ANN401
        library = diffusers if part in self.models else transformers
        return getattr(library, self._architectures[part])

    def _check_kind(self, config: PolicyConfig, name: str) -> None:
        """Refuse a text encoder of another kind than its class.

        transformers would ignore that, take the class's default sizes, and perhaps all memory.
        """
        if name not in self.text_encoders:
            return
        found = self.settings(config, name).get("model_type")
        wanted = self._class(name).config_class.model_type
        if found not in (None, wanted):
            raise WeightsError(
                f"policy.weights: {name} in {local_folder(config.weights)} is a {found}, not a "
                f"{wanted}",
                repair=f"set policy.weights.location to a {self._name} with its own {name}",
            )

    def _load(self, config: PolicyConfig, parts: Collection[str]) -> Any:  # noqa: ANN401
        folder, there = self._require(config, parts)
        wanted = there & set(parts)
        names = sorted(wanted & {*self._architectures})
        # Before loading, which takes minutes for a large model.
        for name in names:
            check_files(folder / name)
            self._check_kind(config, name)
        dtypes = self._dtypes(config)
        left_out = {*self._architectures, *self.tokenizers} - wanted
        try:
            loaded = {
                name: load_model(
                    self._class(name), folder / name, DTYPES[dtypes.get(name, config.text_dtype)]
                )
                for name in names
            }
            if config.quantization == "int8" and "transformer" in loaded:
                quantize(loaded["transformer"])
            # diffusers does not load a part that is passed, also as None.
            return self.pipeline_class.from_pretrained(
                folder, **dict.fromkeys(left_out), **loaded, local_files_only=True
            )
        except (OSError, ValueError, KeyError, SafetensorError, RuntimeError) as error:
            raise WeightsError(
                f"policy.weights: {folder} cannot be loaded as a {self._name}: {error}",
                repair="set policy.weights.location to a complete folder in diffusers' layout with "
                "safetensors weights",
            ) from error
