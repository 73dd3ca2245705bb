"""The LoRA adapter of a transformer, and its files in two layouts."""

import json
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path

import torch
from diffusers.loaders import PeftAdapterMixin
from diffusers.loaders.lora_base import LORA_ADAPTER_METADATA_KEY
from peft import LoraConfig
from peft.tuners.lora import LoraLayer
from safetensors.torch import save_file
from torch import Tensor

from advgrpo.algorithm.randomness import generator_for
from advgrpo.config.policy import AdapterConfig
from advgrpo.errors import WeightsError
from advgrpo.models.meta import META, on_meta
from advgrpo.models.policies.adapter_weights import copy_into
from advgrpo.models.policies.saved_adapter import (
    PEFT_PREFIX,
    PEFT_SETTINGS,
    is_target,
    read_adapter,
    refuse_other_shape,
)
from advgrpo.records import PEFT_WEIGHTS

ADAPTER = "default"
OTHER = "other"

DIFFUSERS_WEIGHTS = "pytorch_lora_weights.safetensors"
_SIZE_BYTES = 8
"""Size of the header's length, with which a safetensors file begins, and the header's alignment."""


class _CastingLinear(torch.nn.Linear):
    """A linear layer without bias that computes in the precision of its input."""

    def forward(self, input: Tensor) -> Tensor:
        # Cast in each pass instead of kept beside the weights: whatever writes these (optimizer,
        # ZeRO, moving average, old policy), rollout and update see the same.
        return torch.nn.functional.linear(input, self.weight.to(input.dtype))


def add_adapter(
    transformer: PeftAdapterMixin, config: AdapterConfig, *, seed: int = 0, cast: bool = False
) -> None:
    """Add a fresh adapter to a frozen transformer; it does not change the output yet.

    Args:
        transformer: Its own parameters stay frozen.
        config: Rank, alpha and target modules.
        seed: Of the `lora_A` matrices; the `lora_B` matrices are zero.
        cast: Whether the adapter computes in the precision of its inputs instead of float32.

    Raises:
        WeightsError: If the transformer lacks a module of the given names.

    Source:
        LoRA, arXiv:2106.09685.
    """
    # peft refuses names only if none of them matches.
    modules = [name for name, _ in transformer.named_modules()]
    for target in config.target_modules:
        if not any(is_target(name, target) for name in modules):
            raise WeightsError(
                f"policy.adapter.target_modules: the transformer has no module {target!r}",
                repair="remove the setting to use the family's own, or list modules of the "
                "transformer",
            )
    is_meta = transformer.device == META
    try:
        # peft draws from the global generator; the values are replaced below.
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            # Adapters are not merged into weights, which peft cannot do with quantized ones.
            warnings.filterwarnings("ignore", "TorchaoLoraLinear", UserWarning)
            with on_meta() if is_meta else nullcontext():
                transformer.add_adapter(_lora_config(config), adapter_name=ADAPTER)
    except ValueError as error:
        raise WeightsError(
            f"policy.adapter.target_modules: {error}",
            repair="remove the setting to use the family's own, or list linear layers of the "
            "transformer",
        ) from error
    if cast:
        _cast_weights(transformer, ADAPTER)
    # peft adds LoRA layers in training mode, even to a model in evaluation mode.
    transformer.eval()
    generator = generator_for("adapter", seed)
    for name, parameter in trainable_parameters(transformer).items():
        # Float32 also on a bfloat16 transformer: most updates are smaller than bfloat16's steps.
        parameter.data = parameter.data.float()
        if ".lora_A." in name and not is_meta:
            # The standard deviation of 1/rank is peft's `gaussian` initialization.
            values = torch.randn(parameter.shape, generator=generator) / config.rank
            parameter.data.copy_(values)


def _cast_weights(transformer: PeftAdapterMixin, adapter: str) -> None:
    """Let an adapter's layers cast their weights instead of their inputs."""
    for module in transformer.modules():
        if not isinstance(module, LoraLayer) or adapter not in module.lora_A:
            continue
        # A convolution keeps peft's way.
        if not isinstance(module.lora_A[adapter], torch.nn.Linear):
            continue
        module.cast_input_dtype_enabled = False
        for layers in (module.lora_A, module.lora_B):
            plain = layers[adapter]
            layers[adapter] = _CastingLinear(
                plain.in_features, plain.out_features, bias=False, device="meta"
            )
            layers[adapter].weight = plain.weight


def trainable_parameters(transformer: PeftAdapterMixin) -> dict[str, torch.nn.Parameter]:
    """Return the adapter's parameters.

    Returns:
        Parameters by their names in peft's layout without its prefix, for instance
        `transformer_blocks.0.attn.to_q.lora_A.weight`.
    """
    return {
        name.replace(f".{ADAPTER}.", "."): parameter
        for name, parameter in transformer.named_parameters()
        # The base weights are frozen, so what requires a gradient is the active adapter; the values
        # of an inactive second one are left out.
        if parameter.requires_grad
    }


def save_adapter(folder: Path, values: Mapping[str, Tensor], config: AdapterConfig) -> None:
    """Write an adapter in the layouts of peft and of diffusers.

    Args:
        folder: Gets `adapter_model.safetensors` and `adapter_config.json` (peft's layout), and
            `pytorch_lora_weights.safetensors` for `pipeline.load_lora_weights(folder)`.
        values: By the names of `trainable_parameters`.
        config: Rank, alpha and target modules.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: value.detach().float().cpu().contiguous() for name, value in values.items()}
    lora = _lora_config(config)
    lora.save_pretrained(str(folder))
    # peft stores the names as a set, whose order differs between processes; files must not.
    names = sorted(config.target_modules)
    # Read back rather than taken from `lora.to_dict()`, to keep all that this peft writes.
    settings = json.loads((folder / PEFT_SETTINGS).read_text(encoding="utf-8"))
    text = json.dumps({**settings, "target_modules": names}, indent=2)
    (folder / PEFT_SETTINGS).write_text(text, encoding="utf-8")
    save_file({PEFT_PREFIX + name: value for name, value in tensors.items()}, folder / PEFT_WEIGHTS)
    _save_for_diffusers(
        folder / DIFFUSERS_WEIGHTS, tensors, {**lora.to_dict(), "target_modules": names}
    )


def _save_for_diffusers(
    path: Path, tensors: Mapping[str, Tensor], settings: Mapping[str, object]
) -> None:
    """Write what the `save_lora_weights` of any pipeline writes for its transformer."""
    metadata = {f"transformer.{name}": value for name, value in settings.items()}
    text = json.dumps(metadata, indent=2, sort_keys=True)
    save_file(
        # Without the prefix `load_lora_weights` finds no LoRA keys: it loads nothing and only
        # warns.
        {f"transformer.{name}": value for name, value in tensors.items()},
        path,
        # The layout has no tensor for alpha; without the metadata diffusers uses the rank instead.
        metadata={"format": "pt", LORA_ADAPTER_METADATA_KEY: text},
    )
    _order_metadata(path)


def _order_metadata(path: Path) -> None:
    """Sort the metadata of a safetensors file, which the library writes in random order.

    Registered files are compared by their hashes, so equal adapters must give equal bytes.
    """
    data = path.read_bytes()
    size = int.from_bytes(data[:_SIZE_BYTES], "little")
    start = _SIZE_BYTES + size
    header = json.loads(data[_SIZE_BYTES:start])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    # As the library does: spaces after the JSON keep the tensors aligned.
    text += b" " * (-len(text) % _SIZE_BYTES)
    path.write_bytes(len(text).to_bytes(_SIZE_BYTES, "little") + text + data[start:])


def load_adapter(transformer: PeftAdapterMixin, folder: Path, config: AdapterConfig) -> None:
    """Load a saved adapter's values into the adapter of a transformer.

    Args:
        transformer: With an adapter.
        folder: The saved adapter, in peft's layout.
        config: Rank, alpha and target modules of the transformer's adapter.

    Raises:
        WeightsError: If the saved adapter is damaged, for other modules, or of another rank or
            alpha.
    """
    refuse_other_shape(folder, config)
    parameters = trainable_parameters(transformer)
    copy_into(parameters, _matching_values(parameters, folder))


@contextmanager
def other_adapter(
    transformer: PeftAdapterMixin, folder: Path, config: AdapterConfig, *, cast: bool = False
) -> Iterator[None]:
    """Replace the transformer's adapter by a saved one within the context.

    Args:
        transformer: With its own adapter, which is not changed.
        folder: The other adapter, in peft's layout.
        config: Rank, alpha and target modules of the other adapter.
        cast: As for `add_adapter`.

    Raises:
        WeightsError: If the saved adapter is damaged, of another shape, or for another base model.
    """
    try:
        # peft warns whenever a model gets a second adapter.
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            transformer.add_adapter(_lora_config(config), adapter_name=OTHER)
    except ValueError as error:
        raise WeightsError(
            f"the adapter in {folder} is for another base model: {error}",
            repair="use an adapter that was trained on the base model in policy.weights",
        ) from error
    try:
        refuse_other_shape(folder, config)
        # Moves requires_grad as well, so within the context nothing of the own adapter is trained.
        transformer.set_adapter(OTHER)
        if cast:
            _cast_weights(transformer, OTHER)
        transformer.eval()
        parameters = {
            name.replace(f".{OTHER}.", "."): parameter
            for name, parameter in transformer.named_parameters()
            if f".{OTHER}." in name
        }
        # As in `add_adapter`: on a bfloat16 transformer peft adds bfloat16 layers.
        for parameter in parameters.values():
            parameter.data = parameter.data.float()
        copy_into(parameters, _matching_values(parameters, folder))
        yield
    finally:
        # Before the deletion: peft would activate an adapter of its own choice if it deleted the
        # active one. Also undoes a failed check, which raises after the second adapter was added.
        transformer.set_adapter(ADAPTER)
        transformer.delete_adapters(OTHER)


def _matching_values(
    parameters: Mapping[str, torch.nn.Parameter], folder: Path
) -> dict[str, Tensor]:
    """Read a saved adapter; raise if it is for other parameters."""
    values = read_adapter(folder)
    # `copy_into` ignores surplus values, so an adapter of more modules would load in part.
    if parameters.keys() != values.keys():
        ours, theirs = parameters.keys() - values.keys(), values.keys() - parameters.keys()
        # Sorted, because the order of a set of strings differs between processes.
        example = next(iter(sorted(theirs or ours)))
        raise WeightsError(
            f"the adapter in {folder} is for other modules: it lacks {len(ours)} parameters of "
            f"policy.adapter and has {len(theirs)} others, for instance {example}",
            repair="set policy.adapter.target_modules to the modules that it was trained with",
        )
    for name, value in values.items():
        if value.shape != parameters[name].shape:
            raise WeightsError(
                f"the adapter in {folder} has {name} of shape {tuple(value.shape)}, not "
                f"{tuple(parameters[name].shape)}",
                repair="set policy.adapter.rank to the rank that it was trained with, and "
                "policy.weights to its base model",
            )
    return values


def _lora_config(config: AdapterConfig) -> LoraConfig:
    # peft declares lora_alpha as an integer.
    alpha = int(config.alpha) if float(config.alpha).is_integer() else config.alpha
    return LoraConfig(
        r=config.rank,
        lora_alpha=alpha,
        init_lora_weights="gaussian",
        target_modules=list(config.target_modules),
    )
