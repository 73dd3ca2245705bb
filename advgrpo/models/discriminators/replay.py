"""Replay of generated images, so that the discriminator does not forget earlier rollouts."""

import torch
from jaxtyping import Int
from torch import Tensor

from advgrpo.models.discriminators.base import Features, concatenate, pick


class ReplayPool:
    """The newest generated images of all ranks; every rank holds the same pool.

    Args:
        capacity: Number of images.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.features: Features = {}
        self.prompt_ids: Int[Tensor, "image"] = torch.zeros(0, dtype=torch.int64)

    def __len__(self) -> int:
        return len(self.prompt_ids)

    def add(self, features: Features, prompt_ids: Int[Tensor, "batch"]) -> None:
        """Add images, and drop the oldest beyond the capacity.

        Args:
            features: Of images without prompts, on the CPU.
            prompt_ids: Position of each image's prompt in the training prompts.
        """
        if len(self):
            # In rank order on every rank: batches are drawn by position, so the order must be
            # equal.
            features = concatenate([self.features, features])
            prompt_ids = torch.cat([self.prompt_ids, prompt_ids])
        # A start of 0 below the capacity: a negative one would count from the end.
        newest = slice(max(0, len(prompt_ids) - self.capacity), None)
        # A slice is a view, which keeps the memory of dropped images until the next concatenation.
        self.features, self.prompt_ids = pick(features, newest), prompt_ids[newest]

    def state(self) -> dict[str, Tensor]:
        """Return the whole pool as tensors by name."""
        state = {f"features.{name}": value for name, value in self.features.items()}
        return {**state, "prompt_ids": self.prompt_ids}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Restore what `state` returned."""
        self.prompt_ids = state["prompt_ids"]
        self.features = {
            name.removeprefix("features."): value
            for name, value in state.items()
            if name.startswith("features.")
        }
