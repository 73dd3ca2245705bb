"""Estimated GPU hours of a run's phases, from operator counts or from a measured rate."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from advgrpo.config.reference_images import DiffusersSource
from advgrpo.config.run import RunConfig
from advgrpo.planning.work import Work, drawn_training_prompts, guidance_passes
from advgrpo.strict_json import load_json_object

DATA = Path(__file__).with_name("roofline.json")
"""Estimated seconds by location of the weights, GPU and pass, for one image; `make roofline` writes
it. A pass of the transformer includes both halves of the guidance."""

PassSeconds = Mapping[str, float]


@dataclass(frozen=True)
class Duration:
    """Time of a phase of the run."""

    phase: str
    gpu_hours: float | None
    """None if unknown."""

    how: str
    """Whether it is an estimate or follows from a measurement, or why it is unknown."""


@dataclass(frozen=True)
class ModelSpeed:
    """Seconds of the passes of a model on a GPU."""

    seconds: PassSeconds
    scale: float
    """Pixels of an image in multiples of those of the table."""

    def steps(self, count: float, kind: str) -> float:
        """Return the seconds of denoising steps, of one image each.

        Args:
            count: Number of steps.
            kind: `eager` or `compiled`.
        """
        return count * self.scale * self.seconds[f"forward {kind}"]

    def images(self, count: int, steps: int = 0) -> float:
        """Return the seconds to sample images uncompiled, and to take the features of each."""
        beside = self.scale * self.seconds["decode"] + self.seconds["features"]
        return self.steps(count * steps, "eager") + count * beside

    def training(self, run: RunConfig, work: Work) -> float:
        """Return the seconds of rollouts, rewards and policy updates of a run."""
        kind = "compiled" if run.training.compile_backend(on_gpu=True) else "eager"
        halves = guidance_passes(run)
        trained = work.update_passes_per_update * self.scale * self.seconds[f"update {kind}"]
        # The last are those that recompute activations, and those of other policies.
        forward = work.rollout_passes_per_update + work.extra_passes_per_update
        update = (self.steps(forward, kind) + trained) / halves
        return work.updates * (update + self.images(work.images_per_update))


def durations(
    run: RunConfig,
    work: Work,
    *,
    gpu: str | None,
    images_per_second: float | None,
    train_prompts: int | None,
    test_prompts: int | None,
) -> list[Duration]:
    """Estimate the phases of a run.

    Args:
        run: The settings.
        work: Its work.
        gpu: A key of `cards.CARDS`; None gives no estimate.
        images_per_second: Measured rate of one GPU over whole updates; replaces the estimate of
            the training.
        train_prompts: Number of training prompts, if known.
        test_prompts: Number of test prompts, if known.
    """
    policy = _speed(run.policy.weights.location, run.policy.resolution_pixels, gpu)

    def estimated(phase: str, seconds: Callable[[ModelSpeed], float]) -> Duration:
        return _estimated(phase, policy, seconds)

    steps, pretraining = run.training.sampling.num_inference_steps, run.discriminator.pretraining
    generated = pretraining.images + pretraining.held_out_images
    config = run.evaluation
    prompts = config.prompts or test_prompts
    # Of the base model and of the trained one.
    evaluated = None if prompts is None else 2 * prompts * config.images_per_prompt
    return [
        _reference_images(run, gpu, train_prompts, test_prompts),
        estimated("reward pre-training", lambda speed: speed.images(generated, steps)),
        estimated("training", lambda speed: speed.training(run, work))
        if images_per_second is None
        else Duration(
            "training",
            work.images / images_per_second / 3600,
            f"at {images_per_second:g} images/s per GPU",
        ),
        Duration("evaluation", None, "use --test-prompts")
        if evaluated is None
        else estimated(
            "evaluation",
            lambda speed: speed.images(evaluated, run.evaluation_sampling.num_inference_steps),
        ),
    ]


def _speed(location: str, pixels: int, gpu: str | None) -> ModelSpeed | None:
    found: dict[str, Any] | None = load_json_object(DATA.read_text("utf-8")).get(location)
    if found is None or gpu is None:
        return None
    return ModelSpeed(found[gpu.lower()], (pixels / found["pixels"]) ** 2)


def _reference_images(
    run: RunConfig, gpu: str | None, train_prompts: int | None, test_prompts: int | None
) -> Duration:
    phase, config = "reference images", run.reference_images
    source = config.source
    if config.existing is not None or not isinstance(source, DiffusersSource):
        return Duration(phase, 0.0, "none are generated on a GPU")
    if train_prompts is None or test_prompts is None:
        return Duration(phase, None, "use --train-prompts and --test-prompts")
    images = drawn_training_prompts(run, train_prompts) * config.images_per_prompt
    images += test_prompts * config.test_images_per_prompt
    # An upper bound for sources without guidance, whose steps are half as long.
    return _estimated(
        phase,
        _speed(source.weights.location, config.resolution_pixels, gpu),
        lambda speed: speed.images(images, source.num_inference_steps),
    )


def _estimated(
    phase: str, speed: ModelSpeed | None, seconds: Callable[[ModelSpeed], float]
) -> Duration:
    if speed is None:
        return Duration(phase, None, "no estimate: name a GPU with --gpu, and published weights")
    return Duration(phase, seconds(speed) / 3600, "estimate, not measured")
