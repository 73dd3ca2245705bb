"""Adapters on disk in peft's layout: reading, and checks of their base model and shape."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from pydantic import ValidationError
from torch import Tensor

from advgrpo.config.base import Weights
from advgrpo.config.policy import AdapterConfig
from advgrpo.errors import WeightsError
from advgrpo.models.policies.peft_settings import check_plain, narrows_modules
from advgrpo.records import PEFT_WEIGHTS
from advgrpo.storage.fetch import local_folder
from advgrpo.storage.tensors import read_tensors
from advgrpo.strict_json import load_json_object

PEFT_SETTINGS = "adapter_config.json"
PEFT_PREFIX = "base_model.model."

_PICKLE = "adapter_model.bin"
_OTHER_LAYOUT = "pytorch_lora_weights.safetensors"
_LORA_NAME = re.compile(r"(base_model\.model\.)?(?P<module>.+)\.lora_[AB]\.weight")


def adapter_folder(place: Weights) -> Path:
    """Fetch an adapter to the local disk.

    Args:
        place: Folder, `s3://` location or hub repository, and the folder in it.

    Returns:
        A folder with `adapter_config.json` and `adapter_model.safetensors`.

    Raises:
        WeightsError: If it does not hold an adapter in peft's layout as safetensors.
        StorageError: If it cannot be fetched.
    """
    folder = local_folder(place)
    if not (folder / PEFT_SETTINGS).is_file() or not (folder / PEFT_WEIGHTS).is_file():
        raise _not_an_adapter(folder, place)
    return folder


def _not_an_adapter(folder: Path, place: Weights) -> WeightsError:
    where = f"{place.location}/{place.subfolder}".rstrip("/")
    if (folder / _PICKLE).is_file() and not (folder / PEFT_WEIGHTS).is_file():
        return WeightsError(
            f"the adapter in {where} is a pickle ({_PICKLE}), which can run code when it is loaded",
            repair="save it again with peft as safetensors: "
            "save_pretrained(folder, safe_serialization=True)",
        )
    # Published repositories often hold several adapters, each in a folder.
    inner = sorted(path.parent.name for path in folder.glob(f"*/{PEFT_SETTINGS}"))
    if inner:
        return WeightsError(
            f"{where} is not an adapter, but contains some: {', '.join(inner)}",
            repair=f"choose one, as {where}/{inner[0]} on the command line or as `subfolder` in "
            "settings",
        )
    lacking = [name for name in (PEFT_SETTINGS, PEFT_WEIGHTS) if not (folder / name).is_file()]
    other = f"; {_OTHER_LAYOUT} is another layout" if (folder / _OTHER_LAYOUT).is_file() else ""
    return WeightsError(
        f"{where} is not an adapter: it has no {' and no '.join(lacking)}{other}",
        repair="use a folder in peft's layout with safetensors weights",
    )


def read_shape(folder: Path) -> AdapterConfig:
    """Read the rank, alpha and target modules of an adapter from its own files.

    Raises:
        WeightsError: If its settings are damaged, or it is not a plain LoRA.
    """
    path = folder / PEFT_SETTINGS
    try:
        settings = load_json_object(path.read_text(encoding="utf-8"))
        check_plain(settings, path)
        modules = settings["target_modules"]
        # peft also allows a pattern, which would match modules that have no weights.
        if not isinstance(modules, list) or narrows_modules(settings):
            modules = _modules(folder)
        values = {"rank": settings["r"], "alpha": settings["lora_alpha"]}
        # Strict: `true` is not a rank of 1.
        shape = AdapterConfig.model_validate(
            {**values, "target_modules": tuple(sorted(modules))}, strict=True
        )
        adapted = _modules(folder)
        # peft ignores names that match no module, and saves them.
        used = [name for name in shape.target_modules if any(is_target(m, name) for m in adapted)]
        return shape.model_copy(update={"target_modules": tuple(used)})
    except (OSError, ValueError, KeyError, TypeError, ValidationError) as error:
        reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
        raise WeightsError(
            f"{path} does not describe an adapter: {type(error).__name__}: {reason}",
            repair=f"copy {PEFT_SETTINGS} from where the adapter came from",
        ) from error


def is_target(module: str, target: str) -> bool:
    """Return whether a name in `target_modules` selects a module, given by its full name."""
    return module == target or module.endswith(f".{target}")


def read_adapter(folder: Path) -> dict[str, Tensor]:
    """Read the values of an adapter.

    Args:
        folder: Holds `adapter_model.safetensors`.

    Returns:
        Float32 values by the names of `trainable_parameters`.

    Raises:
        WeightsError: If the file is missing or damaged, or holds values that are not finite.
    """
    path, tensors = folder / PEFT_WEIGHTS, _tensors(folder)
    values = {name.removeprefix(PEFT_PREFIX): value.float() for name, value in tensors.items()}
    for name, value in values.items():
        # Here the error names the tensor; later a NaN would surface only in the value of a scorer.
        if not bool(torch.isfinite(value).all()):
            raise WeightsError(
                f"{path}: {name} has values that are not finite",
                repair="use an earlier checkpoint of the training that it comes from",
            )
    return values


def _tensors(folder: Path) -> dict[str, Tensor]:
    """Read the tensors of an adapter by their names in the file."""
    path = folder / PEFT_WEIGHTS
    try:
        return read_tensors(path)
    except (OSError, ValueError) as error:
        raise WeightsError(
            f"{path} is not an adapter: {error}",
            repair="use a folder in peft's layout with safetensors weights",
        ) from error


def refuse_foreign(modules: Mapping[str, torch.nn.Module], folder: Path) -> None:
    """Raise an error if an adapter is for another model.

    Args:
        modules: Of the transformer, by name.
        folder: The adapter.

    Raises:
        WeightsError: If the transformer lacks a module that the adapter modifies, or the tensors
            have other names than peft's.
    """
    # First, because an adapter that is more than a plain LoRA has other tensors, too.
    read_shape(folder)
    _refuse_other_names(_tensors(folder), modules, folder)
    wanted = _modules(folder)
    foreign = [name for name in wanted if name not in modules]
    if foreign:
        raise WeightsError(
            f"the adapter in {folder} is for another base model: of the {len(wanted)} modules that "
            f"it modifies, the transformer of policy.weights lacks {len(foreign)}, for instance "
            f"{foreign[0]}",
            repair="use an adapter that was trained on the base model in policy.weights",
        )


def refuse_other_shape(folder: Path, config: AdapterConfig) -> None:
    """Raise an error if an adapter's rank or alpha differs from the settings.

    Raises:
        WeightsError: With both values, and the settings that the adapter needs.
    """
    found = read_shape(folder)
    # Not left to the shapes of tensors: no tensor reveals another alpha, which only scales the
    # output.
    if (found.rank, found.alpha) != (config.rank, config.alpha):
        raise WeightsError(
            f"the adapter in {folder} has rank {found.rank} and alpha {found.alpha:g}, but "
            f"policy.adapter.rank={config.rank} and policy.adapter.alpha={config.alpha:g}",
            repair=f"add --set policy.adapter.rank={found.rank} --set "
            f"policy.adapter.alpha={found.alpha:g}",
        )


def _modules(folder: Path) -> list[str]:
    """List the full names of the modules that an adapter modifies."""
    # A name without `.lora_` is kept, so that the check for foreign modules reports it.
    return sorted({name.rpartition(".lora_")[0] or name for name in read_adapter(folder)})


def _refuse_other_names(names: Iterable[str], modules: Iterable[str], folder: Path) -> None:
    """Raise an error if tensors of the right modules have names that are not peft's."""
    known = set(modules) - {""}
    for name in names:
        match = _LORA_NAME.fullmatch(name)
        if match is not None and match["module"] in known:
            continue
        # The longest first: a name also contains those of the modules around its own.
        for module in sorted(known, key=len, reverse=True):
            # Other tools write underscores for the dots. With dots, another model's module may end
            # like one of this: single_transformer_blocks.0 like transformer_blocks.0.
            for spelled, ends in ((module, "."), (module.replace(".", "_"), (".", "_"))):
                prefix, _, suffix = f".{name}".rpartition(spelled)
                if prefix.endswith(ends) and suffix.startswith((".lora", ".alpha")):
                    raise WeightsError(
                        f"{folder / PEFT_WEIGHTS}: {name} has the prefix {prefix[1:]!r} and the "
                        f"suffix {suffix!r}; peft writes {PEFT_PREFIX!r}, and '.lora_A.weight' or "
                        f"'.lora_B.weight'",
                        repair=f"rename the tensors, for instance this one to "
                        f"{PEFT_PREFIX}{module}.lora_A.weight, or save the adapter with peft",
                    )
