"""The images of an evaluation: sampled ones and reference images, batch by batch."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from advgrpo.algorithm.randomness import seed_for
from advgrpo.config import EvaluationConfig, SamplingConfig
from advgrpo.data.reference_images import load_images
from advgrpo.evaluation.measuring import Batch
from advgrpo.policy.base import Policy
from advgrpo.policy.sampling import sample_images
from advgrpo.records import ReferenceImageSet


class Drawer:
    """Draws the images of an evaluation."""

    def __init__(
        self,
        policy: Policy,
        texts: Sequence[str],
        config: EvaluationConfig,
        sampling: SamplingConfig,
    ) -> None:
        self.policy, self.texts, self.config = policy, texts, config
        self._sampling = sampling

    def all_batches(self) -> Iterator[Batch]:
        """Draw all images."""
        numbers = range(self.config.images_per_prompt)
        return self.batches(
            [(prompt, number) for prompt in range(len(self.texts)) for number in numbers]
        )

    def batches(self, images: Sequence[tuple[int, int]]) -> Iterator[Batch]:
        """Draw images, each given by the position of its prompt and its number."""
        size = self.config.batch_size
        for start in range(0, len(images), size):
            batch = images[start : start + size]
            yield Batch(self._draw(batch), [prompt for prompt, _number in batch])

    def _draw(self, images: Sequence[tuple[int, int]]) -> Tensor:
        texts = [self.texts[prompt] for prompt, _number in images]
        seeds = [
            seed_for("evaluation", self.config.seed, text, number)
            for text, (_prompt, number) in zip(texts, images, strict=True)
        ]
        return sample_images(
            self.policy,
            texts,
            seeds,
            denoising_steps=self._sampling.denoising_steps,
            guidance_scale=self._sampling.guidance_scale,
        )


class Library:
    """Reads the reference images of an evaluation."""

    def __init__(
        self, reference_images: ReferenceImageSet, texts: Sequence[str], batch_size: int
    ) -> None:
        self._set, self._texts, self._batch_size = reference_images, texts, batch_size

    def images(self, prompt: int, limit: int | None = None) -> Tensor:
        """Read the images of a prompt, by its position."""
        text = self._texts[prompt]
        available = len(self._set.files.get(text, ()))
        # None at all is an error, which the reader words.
        count = max(1, available if limit is None else min(available, limit))
        return load_images(self._set, text, range(count))

    def batches(self) -> Iterator[Batch]:
        """Read all images, whole prompts at a time."""
        waiting: list[Tensor] = []
        prompts: list[int] = []
        for prompt in range(len(self._texts)):
            waiting.append(self.images(prompt))
            prompts += [prompt] * len(waiting[-1])
            if len(prompts) >= self._batch_size or prompt == len(self._texts) - 1:
                yield Batch(torch.cat(waiting), prompts)
                waiting, prompts = [], []
