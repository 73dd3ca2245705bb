"""Export of a registered adapter in the layouts of other programs."""

import json
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import yaml

from advgrpo.config.promotion import PromotionConfig
from advgrpo.config.run import RunConfig
from advgrpo.errors import ConfigError
from advgrpo.records import EvaluatedPrompt
from advgrpo.registry.card import model_card
from advgrpo.registry.evidence import SAMPLE_FOLDER, read_evidence, read_settings
from advgrpo.registry.versions import ADAPTER_FILES, ADAPTER_FOLDER, DIFFUSERS_FILE, open_version
from advgrpo.storage.local import atomic_folder
from advgrpo.storage.locations import join

Layout = Literal["diffusers", "comfyui", "huggingface"]

_HUB_LICENCES = {"apache-2.0", "mit", "openrail", "openrail++", "creativeml-openrail-m"}
"""Identifiers of the hub; it lists other licences as `other`, with a name and a link."""


def export(name: str, which: str, *, tracking_uri: str, layout: Layout, output: Path) -> list[str]:
    """Write a registered adapter in another program's layout.

    Args:
        name: The registered model.
        which: Number or alias of the version.
        tracking_uri: The MLflow server.
        layout: `diffusers`: a folder for `load_lora_weights`. `comfyui`: one file below `loras`.
            `huggingface`: a model repository with a card and sample images.
        output: Folder that is created atomically; it must be new or empty.

    Returns:
        Names of the written files below `output`.

    Raises:
        ConfigError: If `output` is not empty.
        TrackingError: If the version does not exist, a file changed, or MLflow is not available.
    """
    # `atomic_folder` would replace an existing folder.
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ConfigError(f"--output {output}: not empty", repair="use a new folder")
    with (
        open_version(name, which, tracking_uri=tracking_uri, action="export") as (version, folder),
        atomic_folder(output) as partial,
    ):
        _WRITERS[layout](folder, partial, f"{name}-{version.version}")
    return sorted(
        path.relative_to(output).as_posix() for path in output.rglob("*") if path.is_file()
    )


def _write_diffusers(version: Path, target: Path, label: str) -> None:  # noqa: ARG001
    shutil.copyfile(version / ADAPTER_FOLDER / DIFFUSERS_FILE, target / DIFFUSERS_FILE)


def _write_comfyui(version: Path, target: Path, label: str) -> None:
    """Write one file with the names of diffusers and alpha tensors, which set ComfyUI's scale.

    Source:
        ComfyUI, `comfy/lora.py` (`model_lora_keys_unet`, diffusers' names) and
        `comfy/weight_adapter/lora.py` (`lora_A`, `lora_B`, `alpha`; without alpha the scale is 1).
    """
    import torch  # noqa: PLC0415 - slow; other layouts do not need it
    from safetensors.torch import load_file, save_file  # noqa: PLC0415

    tensors = load_file(version / ADAPTER_FOLDER / DIFFUSERS_FILE)
    text = (version / ADAPTER_FOLDER / "adapter_config.json").read_text(encoding="utf-8")
    alpha = torch.tensor(float(json.loads(text)["lora_alpha"]))
    modules = [name.removesuffix(".lora_A.weight") for name in tensors if ".lora_A." in name]
    (target / "loras").mkdir()
    save_file(
        # Cloned, because safetensors refuses to save tensors that share memory.
        {**tensors, **{f"{module}.alpha": alpha.clone() for module in modules}},
        target / "loras" / f"{label}.safetensors",
    )


def _write_huggingface(version: Path, target: Path, label: str) -> None:  # noqa: ARG001
    # Both layouts, so that peft and diffusers can load the repository.
    for file in ADAPTER_FILES:
        shutil.copyfile(version / ADAPTER_FOLDER / file, target / file)
    settings, evidence = read_settings(version), read_evidence(version)
    for name in {name for prompt in evidence.sample for name in prompt.images}:
        # Checked by `join`: names come from a file that a server keeps.
        image = Path(join(str(target / SAMPLE_FOLDER), name))
        image.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(version / SAMPLE_FOLDER / name, image)
    head = yaml.safe_dump(_metadata(settings, evidence.sample), sort_keys=False, allow_unicode=True)
    gallery = "<Gallery />\n\n" if evidence.sample else ""
    card = f"---\n{head}---\n\n{gallery}{model_card(settings, evidence)}"
    (target / "README.md").write_text(card, encoding="utf-8")


def _metadata(settings: RunConfig, sample: Sequence[EvaluatedPrompt]) -> dict[str, object]:
    location = settings.policy.weights.location
    # The hub links an adapter to its base model only by a hub id.
    hub = location.removeprefix("hub://") if location.startswith("hub://") else None
    widget = [
        {"text": prompt.prompt, "output": {"url": f"{SAMPLE_FOLDER}/{name}"}}
        for prompt in sample
        for name in prompt.images
    ]
    return {
        **({"base_model": hub, "base_model_relation": "adapter"} if hub else {}),
        **_licence(settings.promotion, hub),
        "library_name": "diffusers",
        "pipeline_tag": "text-to-image",
        "tags": ["lora", "text-to-image", "diffusers", "adversarial-grpo"],
        **({"widget": widget} if widget else {}),
    }


def _licence(promotion: PromotionConfig, hub: str | None) -> dict[str, str]:
    name = promotion.base_model_licence.lower().replace(" ", "-")
    if not name:
        return {}
    if name in _HUB_LICENCES:
        return {"license": name}
    link = promotion.base_model_licence_link or (f"https://huggingface.co/{hub}" if hub else "")
    return {
        "license": "other",
        # The hub accepts letters, digits, dots and hyphens.
        "license_name": re.sub(r"[^a-z0-9.]+", "-", name).strip("-"),
        **({"license_link": link} if link else {}),
    }


_WRITERS: dict[Layout, Callable[[Path, Path, str], None]] = {
    "diffusers": _write_diffusers,
    "comfyui": _write_comfyui,
    "huggingface": _write_huggingface,
}
