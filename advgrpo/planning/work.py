"""Work of a run: images, forward passes and optimizer steps."""

from dataclasses import dataclass

from advgrpo.config.passes import rollout_passes, trained_passes
from advgrpo.config.run import RunConfig
from advgrpo.config.tasks import ReferenceImagesSettings, TrainingSettings
from advgrpo.config.training import EveryRollout, ReleasedSchedule, WhenOutscored
from advgrpo.data.drawn_prompts import count_drawn


@dataclass(frozen=True)
class Work:
    """Work of all GPUs together. A pass is one image, or its unguided copy, in the transformer."""

    updates: int
    """Rollouts that update the policy."""

    rollouts_per_update: int
    images_per_rollout: int
    images_per_update: int
    """Sampled for one update, including rollouts that only train the discriminator."""

    images: int
    """Sampled in the whole run, without held-out metrics and pre-training."""

    rollout_passes_per_update: float
    update_passes_per_update: int
    """Forward passes with a backward pass."""

    extra_passes_per_update: float
    """Forward passes of gradient checkpointing, and of other policies such as the base policy."""

    optimizer_steps: int
    """Of the policy, in the whole run."""

    discriminator_steps_per_update: int
    discriminator_steps: int
    """In the whole run, including pre-training without an early stop."""

    note: str
    """What the counts do not include."""


def work_of(run: RunConfig, gpus: int) -> Work:
    """Return the work of a run."""
    training = run.training
    rollouts, steps, note = _turns(run)
    rollout_images = images_per_gpu(run, gpus) * gpus
    trained = round(training.rollout.trained_images * trained_passes(run.policy, training))
    # One to recompute activations, and those of other policies.
    others = training.algorithm.extra_passes(training.optimizer_steps_per_update)
    again = int(run.policy.gradient_checkpointing is True) + others
    return Work(
        updates=training.updates,
        rollouts_per_update=rollouts,
        images_per_rollout=rollout_images,
        images_per_update=rollouts * rollout_images,
        images=training.updates * rollouts * rollout_images,
        rollout_passes_per_update=rollouts * rollout_passes(run.policy, training),
        update_passes_per_update=trained,
        extra_passes_per_update=again * trained,
        optimizer_steps=training.optimizer_steps,
        discriminator_steps_per_update=steps,
        discriminator_steps=training.updates * steps + run.discriminator.pretraining.steps,
        note=note,
    )


def _turns(run: RunConfig) -> tuple[int, int, str]:
    """Return rollouts and discriminator steps of an update, and a note."""
    match run.training.update_schedule:
        case EveryRollout(discriminator_steps=steps):
            return 1, steps, ""
        case ReleasedSchedule(discriminator_rollouts=rollouts):
            return rollouts + 1, rollouts, ""
        # Must precede the case without arguments, which also matches it.
        case WhenOutscored(discriminator_steps=steps, pause_policy=False):
            return 1, steps, "an upper bound: the discriminator is trained only while it is fooled"
        case WhenOutscored():
            return 1, 0, "not included: rollouts that fool the discriminator, and its steps on them"
        case _:
            return 1, 0, ""


def images_per_gpu(run: RunConfig | TrainingSettings, gpus: int) -> int:
    """Return the number of images of a rollout per GPU."""
    # Exact for every number of GPUs that `RunConfig.check_ranks` accepts.
    return run.training.rollout.images // gpus


def guidance_passes(run: RunConfig | TrainingSettings) -> int:
    """Return the passes of an image per denoising step: two with guidance."""
    return run.policy.guidance_passes(run.training.sampling.guidance_scale)


def drawn_training_prompts(run: RunConfig, prompts: int) -> int:
    """Estimate the training prompts whose reference images a run reads, and generates if needed."""
    draws = ReferenceImagesSettings.of(run).draws
    return prompts if draws is None else count_drawn(prompts, draws)
