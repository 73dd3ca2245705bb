"""A small world to evaluate: a policy that draws colours, and a judge of colour."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor

from advgrpo.models.policies.base import PromptEmbeddings

SIDE = 16
COLOURS = {"red": (0.9, 0.1, 0.1), "green": (0.1, 0.8, 0.2), "blue": (0.1, 0.2, 0.9)}
PROMPTS = tuple(f"a {colour} thing, {number}" for number in range(4) for colour in COLOURS)


def colour_of(prompt: str) -> Tensor:
    return torch.tensor(COLOURS[prompt.split()[1]])


class ColourPolicy:
    """Draws the colour of the prompt; without its adapter, mostly grey."""

    latent_shape = (3, SIDE, SIDE)
    device = torch.device("cpu")

    def __init__(self) -> None:
        self.adapted, self.strength = True, 1.0
        self.drawn: list[tuple[bool, int]] = []

    def sigmas(self, num_inference_steps: int) -> Tensor:
        return torch.linspace(1, 0, num_inference_steps + 1)

    def embed(self, prompts: Sequence[str]) -> PromptEmbeddings:
        return PromptEmbeddings(tuple({"colour": colour_of(prompt)} for prompt in prompts))

    def velocity(
        self, latents: Tensor, sigma: float, embeddings: PromptEmbeddings, *, guidance_scale: float
    ) -> Tensor:
        strength = self.strength if self.adapted else 0.2
        target = strength * embeddings.stack("colour") + (1 - strength) * 0.5
        return guidance_scale * (latents - target[:, :, None, None]) / max(sigma, 0.25)

    def decode(self, latents: Tensor) -> Tensor:
        self.drawn.append((self.adapted, len(latents)))
        return latents.clamp(0, 1)

    @contextmanager
    def base_policy(self) -> Iterator[None]:
        self.adapted = False
        try:
            yield
        finally:
            self.adapted = True

    def as_in_update(self) -> AbstractContextManager[None]:
        return nullcontext()

    @contextmanager
    def as_champion(self) -> Iterator[None]:
        """Between base and trained model."""
        self.strength = 0.6
        try:
            yield
        finally:
            self.strength = 1.0

    def trainable_parameters(self) -> dict[str, torch.nn.Parameter]:
        return {}


class ColourJudge:
    """Scores how near the mean colour is to the prompt's."""

    name = "judge"

    def score(self, images: Tensor, prompts: Sequence[str]) -> Mapping[str, Tensor]:
        wanted = torch.stack([colour_of(prompt) for prompt in prompts])
        return {"colour": 1 - (images.mean(dim=(2, 3)) - wanted).abs().mean(dim=1)}
