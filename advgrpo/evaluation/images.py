"""The images of an evaluation, batch by batch: sampled ones and reference images."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from advgrpo.algorithm.seeds import seed_for
from advgrpo.config.evaluation import EvaluationConfig
from advgrpo.config.policy import SamplingConfig
from advgrpo.data.image_loading import load_images
from advgrpo.errors import ReferenceImageError
from advgrpo.evaluation.results import Batch, Champion
from advgrpo.evaluation.saved_evaluation import Side
from advgrpo.models.policies.base import FlowModel
from advgrpo.models.policies.sampling import sample_images
from advgrpo.records import ReferenceImageSet


class ImageSampler:
    """Samples the images of an evaluation in batches of fixed composition."""

    def __init__(
        self,
        policy: FlowModel,
        texts: Sequence[str],
        config: EvaluationConfig,
        sampling: SamplingConfig,
    ) -> None:
        self.policy, self.texts, self.config = policy, texts, config
        self._sampling = sampling
        numbers = range(config.images_per_prompt)
        images = [(prompt, number) for prompt in range(len(texts)) for number in numbers]
        # Fixed by the settings, because the last bits of an image depend on its batch.
        self._batches = list(_split(images, config.batch_size))

    @property
    def sizes(self) -> list[int]:
        """Number of images of each batch."""
        return [len(batch) for batch in self._batches]

    def sampling_as(self, side: Side, champion: Champion | None) -> AbstractContextManager[None]:
        """Return a context in which the policy samples as one side of the evaluation."""
        if side == "base":
            return self.policy.base_policy()
        if side == "champion" and champion is not None:
            return champion.adapter()
        # The adapter is active by default, and reference images are not sampled at all.
        return nullcontext()

    def batch(self, number: int) -> Batch:
        """Sample a batch."""
        images = self._batches[number]
        return Batch(
            self._sample(images),
            [prompt for prompt, _number in images],
            [f"seed {seed}" for seed in self._seeds(images)],
        )

    def all_batches(self) -> Iterator[Batch]:
        """Sample all batches."""
        return (self.batch(number) for number in range(len(self._batches)))

    def sample(self, images: Sequence[tuple[int, int]]) -> Tensor:
        """Sample images, each given by the position of its prompt and its number, on the CPU."""
        batches = _split(images, self.config.batch_size)
        # On the CPU, batch by batch, so that GPU memory holds one batch only.
        return torch.cat([self._sample(batch).cpu() for batch in batches])

    def _sample(self, images: Sequence[tuple[int, int]]) -> Tensor:
        return sample_images(
            self.policy,
            [self.texts[prompt] for prompt, _number in images],
            self._seeds(images),
            num_inference_steps=self._sampling.num_inference_steps,
            guidance_scale=self._sampling.guidance_scale,
        )

    def _seeds(self, images: Sequence[tuple[int, int]]) -> list[int]:
        # By the prompt's text, not its position: other prompts in the file do not change its
        # images.
        seed = self.config.seed
        return [seed_for("evaluation", seed, self.texts[prompt], n) for prompt, n in images]


class ReferenceReader:
    """Reads the reference images of an evaluation, whole prompts at a time.

    Raises:
        ReferenceImageError: If a prompt has none.
    """

    def __init__(
        self, reference_images: ReferenceImageSet, texts: Sequence[str], batch_size: int
    ) -> None:
        self._set, self._texts = reference_images, texts
        without = [text for text in texts if not reference_images.files.get(text)]
        if without:
            raise ReferenceImageError(
                f"{len(without)} of the evaluation's {len(texts)} prompts have no reference image "
                f"in {reference_images.root}, for instance {without[0]!r}",
                repair="generate reference images for prompts.test: advgrpo reference-images "
                "generate",
            )
        self._batches: list[list[int]] = [[]]
        self.sizes = [0]
        """Number of images of each batch."""
        # Prompts are not split, so a batch may exceed batch_size by the images of one prompt.
        for prompt in range(len(texts)):
            if self.sizes[-1] >= batch_size:
                self._batches.append([])
                self.sizes.append(0)
            self._batches[-1].append(prompt)
            self.sizes[-1] += self._count(prompt)

    def images(self, prompt: int, limit: int | None = None) -> Tensor:
        """Read the images of a prompt, given by its position."""
        count = self._count(prompt)
        count = count if limit is None else min(count, limit)
        return load_images(self._set, self._texts[prompt], range(count))

    def batch(self, number: int) -> Batch:
        """Read a batch."""
        prompts = self._batches[number]
        images = torch.cat([self.images(prompt) for prompt in prompts])
        positions = [prompt for prompt in prompts for _ in range(self._count(prompt))]
        return Batch(images, positions, ["a reference image"] * len(positions))

    def _count(self, prompt: int) -> int:
        return len(self._set.files[self._texts[prompt]])


def _split(images: Sequence[tuple[int, int]], size: int) -> Iterator[Sequence[tuple[int, int]]]:
    for start in range(0, len(images), size):
        yield images[start : start + size]
