"""Settings in an adapter's `adapter_config.json`: those understood; all others are refused."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from peft import LoraConfig

from advgrpo.errors import WeightsError

_READ = ("r", "lora_alpha", "target_modules")
"""Read by `read_shape`."""

_MODULES = ("exclude_modules", "layers_pattern", "layers_to_transform")
"""Narrow `target_modules`; the weights themselves have the names of the modules that are left."""

_WITHOUT_EFFECT = (
    "auto_mapping",
    "base_model_name_or_path",
    "eva_config",
    "inference_mode",
    "lora_dropout",
    "megatron_core",
    "peft_version",
    "qalora_group_size",
    "revision",
    "runtime_config",
    "task_type",
)
"""Do not change the output of a trained adapter, whatever their value. Those of a method that is
switched by another setting are here; the switch is not."""

_PLAIN: Mapping[str, tuple[object, ...]] = {
    "peft_type": ("LORA",),
    # Start values of the adapter alone. peft's other methods also change the base weights.
    "init_lora_weights": (True, False, "gaussian", "eva", "orthogonal", "mica"),
}
"""Values that are understood."""

_CONVERTIBLE = re.compile(r"pissa(_niter_\d+)?|olora", re.IGNORECASE)
"""Methods whose start peft can repeat from the base model alone."""


def check_plain(settings: Mapping[str, Any], path: Path) -> None:
    """Refuse settings of an adapter that change its output and are not understood.

    Args:
        settings: As peft saved them.
        path: Their file.

    Raises:
        WeightsError: If the adapter is more than a plain LoRA; names the settings.
    """
    method = settings.get("init_lora_weights")
    if isinstance(method, str) and _CONVERTIBLE.fullmatch(method):
        raise WeightsError(
            f"{path} has init_lora_weights={method!r}: peft changed the base weights when the "
            "training of this adapter began, so it does not fit those in policy.weights",
            repair="convert it to a plain LoRA with peft, save_pretrained(folder, "
            'path_initial_model_for_weight_conversion=...); section "PiSSA and OLoRA" of '
            "docs/using-an-adapter.md has the lines",
        )
    unsupported = [f"{name}={value!r}" for name, value in settings.items() if _changes(name, value)]
    if unsupported:
        raise WeightsError(
            f"{path} describes more than a plain LoRA: {', '.join(sorted(unsupported))}",
            repair="use an adapter that was trained without these settings",
        )


def narrows_modules(settings: Mapping[str, Any]) -> bool:
    """Return whether `target_modules` alone does not tell which modules the adapter modifies."""
    return any(settings.get(name) for name in _MODULES)


def _changes(name: str, value: object) -> bool:
    if name in _PLAIN:
        # With the type, because 1 == True.
        return not any(value == plain and type(value) is type(plain) for plain in _PLAIN[name])
    if name in {*_READ, *_MODULES, *_WITHOUT_EFFECT}:
        return False
    # Other versions of peft have other settings; an empty one is switched off.
    return bool(value) and value != _DEFAULTS.get(name)


_DEFAULTS: Mapping[str, object] = LoraConfig().to_dict()
