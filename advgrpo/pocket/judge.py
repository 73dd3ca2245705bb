"""A judge of the attributes and the style of pocket pictures; never used in training."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from advgrpo.pocket.captions import ATTRIBUTES, parse_caption
from advgrpo.pocket.pictures import RESOLUTION_PIXELS

CLASS_COUNTS = tuple(len(values) for values in ATTRIBUTES.values())


@dataclass(frozen=True)
class JudgeConfig:
    """The shape of the judge's network."""

    channels: tuple[int, int, int] = (24, 40, 48)


@dataclass(frozen=True)
class Verdict:
    """The judge's output for a batch of pictures."""

    attribute_logits: Float[Tensor, "batch classes"]
    style: Float[Tensor, "batch"]

    def attributes(self) -> Int[Tensor, "batch 5"]:
        """Return the most likely value of each attribute, in the order of `Caption.labels`."""
        pieces = self.attribute_logits.split(CLASS_COUNTS, dim=1)
        return torch.stack([piece.argmax(dim=1) for piece in pieces], dim=1)


class PocketJudge(nn.Module):
    """A small convolutional network that classifies attributes and estimates style."""

    def __init__(self, config: JudgeConfig) -> None:
        super().__init__()
        self.config = config
        layers: list[nn.Module] = []
        previous = 3
        for channels in config.channels:
            layers += [nn.Conv2d(previous, channels, 3, padding=1), nn.GELU(), nn.MaxPool2d(2)]
            previous = channels
        self.body = nn.Sequential(*layers, nn.Flatten())
        cells = (RESOLUTION_PIXELS // 2 ** len(config.channels)) ** 2
        # Flattened cells instead of a pooled mean, which would lose the position in the picture.
        # The last output is the style.
        self.head = nn.Linear(previous * cells, sum(CLASS_COUNTS) + 1)

    def forward(self, images: Float[Tensor, "batch 3 32 32"]) -> Verdict:
        """Classify pictures with values in [0, 1]."""
        # Centred inputs; the shipped weights were trained with this scale, so it must not change.
        outputs = self.head(self.body(images * 4.0 - 2.0))
        return Verdict(outputs[:, :-1], outputs[:, -1])

    def save(self, folder: Path) -> None:
        """Write `config.json` and `model.safetensors` (float16) to a folder."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps(asdict(self.config)) + "\n")
        # Float16 halves the file, which the package ships.
        state = {key: value.half().contiguous() for key, value in self.state_dict().items()}
        save_file(state, folder / "model.safetensors")

    @classmethod
    def load(cls, folder: Path) -> PocketJudge:
        """Read a saved judge, in evaluation mode and float32.

        Raises:
            FileNotFoundError: If the folder holds no saved judge.
        """
        settings = json.loads((folder / "config.json").read_text())
        judge = cls(JudgeConfig(channels=tuple(settings["channels"])))
        state = load_file(folder / "model.safetensors")
        # Back to float32: convolutions in half precision are slow or missing on CPUs.
        judge.load_state_dict({key: value.float() for key, value in state.items()})
        return judge.eval().requires_grad_(False)


class PocketJudgeScorer:
    """A scorer of how many attributes of its prompt a picture shows.

    Args:
        judge: The network.
        device: Its device.
    """

    name = "pocket_judge"

    def __init__(self, judge: PocketJudge, device: torch.device | None = None) -> None:
        self._device = device or torch.device("cpu")
        self._judge = judge.to(self._device)

    @classmethod
    def load(cls, folder: Path, device: torch.device | None = None) -> PocketJudgeScorer:
        """Load the judge from a folder, by default on the CPU."""
        return cls(PocketJudge.load(folder), device)

    @torch.no_grad()
    def score(
        self, images: Float[Tensor, "batch 3 height width"], prompts: Sequence[str]
    ) -> dict[str, Float[Tensor, "batch"]]:
        """Compare the attributes of each picture with those of its prompt.

        Args:
            images: RGB in [0, 1], 32 x 32.
            prompts: One pocket caption for each image.

        Returns:
            `attribute_accuracy`, the share of the five attributes that are right, and
            `all_attributes`, 1 if all are; on the CPU.

        Raises:
            ValueError: If a prompt is not a pocket caption.
        """
        wanted = torch.tensor([parse_caption(prompt).labels for prompt in prompts])
        right = (self._judge(images.to(self._device)).attributes().cpu() == wanted).float()
        return {"attribute_accuracy": right.mean(dim=1), "all_attributes": right.amin(dim=1)}

    @torch.no_grad()
    def style(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch"]:
        """Estimate each picture's style, on the CPU: near 0 dull, near 1 crisp."""
        verdict: Verdict = self._judge(images.to(self._device))
        # A regression, so it may exceed the range of the renderer's style.
        return verdict.style.clamp(0.0, 1.0).cpu()
