"""Storage of a run in its workspace."""

from advgrpo.config.run import RunConfig
from advgrpo.planning.discriminator import discriminator_parameters, feature_bytes
from advgrpo.planning.memory import adapter_parameters
from advgrpo.planning.parts import FLOAT32, Models, Part
from advgrpo.planning.work import drawn_training_prompts

PNG_BYTES_PER_PIXEL = 60e9 / (203_456 * 512**2)
"""Average of the released reference images: 203,456 files of 512 x 512 pixels take about 60 GB."""


def storage(
    run: RunConfig, models: Models, *, train_prompts: int | None, test_prompts: int | None
) -> list[Part]:
    """Return the storage of a run in its workspace, by part.

    Args:
        run: The settings.
        models: Its models.
        train_prompts: Number of training prompts, if known.
        test_prompts: Number of test prompts, if known.
    """
    references = run.reference_images
    drawn = None if train_prompts is None else drawn_training_prompts(run, train_prompts)
    per_image = round(PNG_BYTES_PER_PIXEL * references.resolution_pixels**2)
    return [
        _of_prompts("reference images", drawn, references.of_each_prompt, per_image),
        _of_prompts(
            "reference images of test prompts",
            test_prompts,
            references.of_each_test_prompt,
            per_image,
        ),
        _of_prompts(
            "features of reference images",
            drawn,
            references.of_each_prompt,
            feature_bytes(run, models),
        ),
        _embeddings(run, models, train_prompts, test_prompts),
        _checkpoints(run, models),
    ]


def _of_prompts(name: str, prompts: int | None, images: int | None, each: int | None) -> Part:
    if each is None:
        return Part(name, None, "the backbone of the discriminator is unknown")
    kib = f"{each / 2**10:,.0f} KiB each"
    if images is None:
        return Part(name, None, f"one per image of the folder, about {kib}")
    if prompts is None:
        how = f"{images} per prompt, about {kib}; use --train-prompts and --test-prompts"
        return Part(name, None, how)
    count = prompts * images
    return Part(name, count * each, f"{count:,} images of {prompts:,} prompts, about {kib}")


def _embeddings(
    run: RunConfig, models: Models, train_prompts: int | None, test_prompts: int | None
) -> Part:
    """Return the largest possible size of the prompt embeddings."""
    name = "prompt embeddings"
    if isinstance(models.policy, str):
        return Part(name, None, "the transformer is unknown")
    each = models.policy.embed(["a prompt"]).nbytes
    about = f"{each / 2**10:,.0f} KiB each; from S3, each machine downloads them"
    if train_prompts is None or test_prompts is None:
        return Part(
            name, None, f"sampled prompts, about {about}; use --train-prompts and --test-prompts"
        )
    training = run.training
    drawn, taken = train_prompts, training.rollouts
    if taken is not None:
        drawn = min(drawn, taken * training.rollout.prompts_per_update)
    held_out = training.monitoring.held_out_prompts
    # Drawn and held-out prompts are at most all of the file; one is the unconditional prompt.
    count = min(drawn + held_out, train_prompts) + test_prompts + 1
    return Part(name, count * each, f"at most {count:,} prompts, about {about}")


def _checkpoints(run: RunConfig, models: Models) -> Part:
    kept = run.training.checkpoints_kept
    adapter, trained = adapter_parameters(models), discriminator_parameters(run, models)
    features = feature_bytes(run, models)
    if adapter is None or trained is None or features is None:
        return Part("checkpoints", None, "a model is unknown")
    # Adapter: weight, two moments, average, best, copies of the algorithm. Discriminator: weight,
    # two moments. Then replay.
    copies = 5 + run.training.algorithm.adapter_copies
    one = (copies * adapter + 3 * trained) * FLOAT32
    rollout = run.training.rollout
    replayed = rollout.replayed_rollouts * rollout.images
    one += (run.discriminator.optimizer.replay_images + replayed) * features
    # A new checkpoint is written before the oldest is deleted.
    return Part("checkpoints", (kept + 1) * one, f"{kept} retained and one being written")
