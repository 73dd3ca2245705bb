"""Build of all pocket weights: `python -m studies.pocket.build --output DIR --seed 0`."""

from __future__ import annotations

import argparse
import copy
import json
import logging
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from diffusers import AutoencoderKL, ModelMixin, SD3Transformer2DModel, StableDiffusion3Pipeline
from transformers import BitImageProcessorPil, CLIPImageProcessorPil, PreTrainedModel

from advgrpo.pocket.judge import PocketJudge
from advgrpo.pocket.models import build_pipeline
from advgrpo.pocket.pictures import RESOLUTION_PIXELS
from advgrpo.pocket.tokenizers import build_clip_tokenizer
from studies.pocket import dino, judge, measure, pickscore, policy, text, vae
from studies.pocket.loop import OptimizationSettings

logger = logging.getLogger(__name__)

Metrics = dict[str, float]

PARTS = ("vae", "text", "judge", "dino", "pickscore", "policy", "metrics")
"""All parts, in the order of their dependencies."""


@runtime_checkable
class Savable(Protocol):
    """Anything with the `save_pretrained` of diffusers and transformers."""

    def save_pretrained(self, save_directory: str) -> object:
        """Write to a folder."""


def save_in_place(part: Savable, folder: Path) -> None:
    """Replace a saved part file by file, so that a concurrent reader never gets a partial file."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        part.save_pretrained(temporary)
        for file in sorted(Path(temporary).iterdir()):
            file.chmod(0o644)
            file.replace(folder / file.name)


def save_half(module: ModelMixin | PreTrainedModel, folder: Path) -> None:
    """Save a diffusers or transformers model as float16."""
    save_in_place(copy.deepcopy(module).half(), folder)


class PocketBuild:
    """The parts of the pocket world, in the order of their dependencies."""

    def __init__(self, output: Path, seed: int, scale: float) -> None:
        self.output, self.seed, self.scale = output, seed, scale
        folder = output / "pipeline"
        if (folder / "model_index.json").exists():
            self.pipeline = StableDiffusion3Pipeline.from_pretrained(folder, dtype=torch.float32)
        else:
            self.pipeline = build_pipeline(seed)
            self._save_pipeline()
        self.parts: dict[str, tuple[Callable[[], Metrics], OptimizationSettings | None]] = {
            "vae": (self._vae, vae.SETTINGS),
            "text": (self._text, text.SETTINGS),
            "judge": (self._judge, judge.SETTINGS),
            "dino": (self._dino, dino.SETTINGS),
            "pickscore": (self._pickscore, pickscore.SETTINGS),
            "policy": (self._policy, policy.SETTINGS),
            "metrics": (self._metrics, None),
        }

    def run(self, only: Sequence[str]) -> None:
        """Build the named parts, or all, and record the time and metrics of each."""
        for name, (build, settings) in self.parts.items():
            if only and name not in only:
                continue
            started = time.process_time()
            metrics = build()
            record: dict[str, object] = {"seed": self.seed, "scale": self.scale}
            if settings is not None:
                record["settings"] = asdict(settings.scaled(self.scale))
            record["metrics"] = {key: round(value, 4) for key, value in metrics.items()}
            record["cpu_seconds"] = round(time.process_time() - started, 1)
            self._record(name, record)
            logger.info("%s: %s", name, json.dumps(record))

    def _record(self, name: str, record: dict[str, object]) -> None:
        path = self.output / "training.json"
        records = json.loads(path.read_text()) if path.exists() else {}
        records[name] = record
        path.write_text(json.dumps(records, indent=2) + "\n")

    def _vae(self) -> Metrics:
        self.pipeline.vae, metrics = vae.train_vae(self.seed, self.scale)
        save_half(self.pipeline.vae, self.output / "pipeline" / "vae")
        return metrics

    def _text(self) -> Metrics:
        metrics = text.train_text_encoders(self.pipeline, self.seed, self.scale)
        for name in ("text_encoder", "text_encoder_2", "text_encoder_3"):
            save_half(self.pipeline.components[name], self.output / "pipeline" / name)
        return metrics

    def _judge(self) -> Metrics:
        trained, metrics = judge.train_judge(self._frozen_vae(), self.seed, self.scale)
        trained.save(self.output / "judge")
        return metrics

    def _dino(self) -> Metrics:
        backbone, metrics = dino.train_dino(self._frozen_vae(), self.seed, self.scale)
        save_half(backbone, self.output / "dino")
        processor = BitImageProcessorPil(**_preprocessing(), do_center_crop=False)
        save_in_place(processor, self.output / "dino")
        return metrics

    def _pickscore(self) -> Metrics:
        model, metrics = pickscore.train_pickscore(self._frozen_vae(), self.seed, self.scale)
        save_half(model, self.output / "pickscore")
        save_in_place(build_clip_tokenizer(), self.output / "pickscore")
        processor = CLIPImageProcessorPil(**_preprocessing(), do_center_crop=False)
        save_in_place(processor, self.output / "pickscore")
        return metrics

    def _policy(self) -> Metrics:
        folder = self.output / "pipeline" / "transformer"

        def snapshot(average: SD3Transformer2DModel) -> None:
            save_half(average, folder)

        metrics = policy.train_policy(self.pipeline, self.seed, self.scale, snapshot)
        snapshot(self.pipeline.transformer)
        return metrics

    def _metrics(self) -> Metrics:
        return measure.measure_base_policy(
            self.pipeline, PocketJudge.load(self.output / "judge"), self.output / "dino", self.seed
        )

    def _frozen_vae(self) -> AutoencoderKL:
        vae: AutoencoderKL = self.pipeline.vae.eval().requires_grad_(False)
        return vae

    def _save_pipeline(self) -> None:
        folder = self.output / "pipeline"
        folder.mkdir(parents=True, exist_ok=True)
        self.pipeline.save_pretrained(folder)
        for name, part in self.pipeline.components.items():
            if isinstance(part, torch.nn.Module):
                save_half(part, folder / name)


def _preprocessing() -> dict[str, object]:
    return {
        "size": {"height": RESOLUTION_PIXELS, "width": RESOLUTION_PIXELS},
        "image_mean": list(dino.IMAGE_MEAN),
        "image_std": list(dino.IMAGE_STD),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line and build."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True, help="folder to write or to complete")
    parser.add_argument("--seed", type=int, default=0, help="determines every weight")
    parser.add_argument(
        "--only",
        nargs="+",
        choices=PARTS,
        default=[],
        help="parts to build; the parts they need must be there",
    )
    parser.add_argument(
        "--minutes-scale", type=float, default=1.0, help="multiplies the steps of every part"
    )
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(1)
    build = PocketBuild(options.output, options.seed, options.minutes_scale)
    build.run(options.only)


if __name__ == "__main__":
    main()
