"""A scorer as a user would write it: one class in one file of another package."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor


class Contrast:
    """Spread of an image's values; it cannot judge prompts that ask for fog."""

    def __init__(self, device: torch.device, *, gain: float = 1.0) -> None:
        self.device, self.gain = device, gain

    def score(self, images: Tensor, _prompts: Sequence[str]) -> Mapping[str, Tensor]:
        return {"spread": self.gain * images.std(dim=(1, 2, 3))}

    def why_missing(self, prompt: str) -> str:
        return "it asks for fog" if "fog" in prompt else ""


class OneValue:
    def __init__(self, device: torch.device) -> None:
        pass

    def score(self, images: Tensor, _prompts: Sequence[str]) -> Mapping[str, Tensor]:
        return {"spread": images.mean()}
