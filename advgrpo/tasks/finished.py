"""Finished results of tasks, found without torch.

The launcher looks here first: a second run with equal settings starts no job for them. It needs the
location of a result only, which follows from settings, prompts and inputs.
"""

from advgrpo import __version__
from advgrpo.config.evaluation import EvaluationConfig
from advgrpo.config.promotion import PromotionConfig
from advgrpo.config.run import RunConfig
from advgrpo.config.tasks import (
    PretrainingSettings,
    TrainingSettings,
    digest,
    parse_json,
    without_prompt_files,
)
from advgrpo.config.tracking import TrackingConfig
from advgrpo.data.prompts import Prompts, read_run_prompts
from advgrpo.records import DISCRIMINATOR_WEIGHTS, PEFT_WEIGHTS
from advgrpo.runtime.pipeline_tasks import EVALUATE, PRETRAIN_REWARD, TRAIN
from advgrpo.runtime.results import (
    TaskResult,
    find_result,
    record_history,
)
from advgrpo.runtime.task_context import record_task, track_task
from advgrpo.storage.fetch import local_folder
from advgrpo.storage.folders import read_commit
from advgrpo.storage.local import file_sha256
from advgrpo.storage.locations import join
from advgrpo.tasks.cache_key import by_content, cache_key
from advgrpo.tracking.address import tracking_uri
from advgrpo.tracking.task_run import TaskRun

REPORT_FILE = "report.html"
_SETTINGS = "the settings"


def training_location(
    task: TrainingSettings,
    prompts: Prompts,
    *,
    reference_images: str,
    discriminator: str,
    workspace: str,
) -> str:
    """Return the folder of a training, whose name is the cache key of its settings and inputs.

    Raises:
        StorageError: If weights cannot be read.
    """
    key = cache_key(task.cache_relevant(), prompts.train.digest, reference_images, discriminator)
    return join(workspace, "training", key)


def checkpoints_location(result: str) -> str:
    """Return the folder of a training's checkpoints, which lies beside its result."""
    return join(result.rpartition("/")[0], "checkpoints")


def pretraining_location(
    task: PretrainingSettings, prompts: Prompts, *, reference_images: str, workspace: str
) -> str:
    """Return the location of a pre-trained discriminator.

    Raises:
        StorageError: If weights cannot be read.
    """
    # Another release may sample other images.
    key = cache_key(without_prompt_files(task), prompts.train.digest, reference_images, __version__)
    return join(workspace, "discriminators", key)


def find_trained(
    settings: str,
    *,
    reference_images: str,
    discriminator: str,
    workspace: str,
    processes: int = 1,
    parent_run_id: str = "",
) -> TaskResult | None:
    """Return the result of a finished training and record it; None without one.

    Takes the arguments of `advgrpo.tasks.train.train`.

    Raises:
        AdvGrpoError: If prompts, weights or the result cannot be read.
    """
    del processes  # The result does not depend on their number.
    task = parse_json(TrainingSettings, settings, where=_SETTINGS)
    location = training_location(
        task,
        read_run_prompts(task.prompts),
        reference_images=reference_images,
        discriminator=discriminator,
        workspace=workspace,
    )
    done = find_result(join(location, "result"))
    if done is not None:
        record_training(done, parent_run_id)
    return done


def record_training(done: TaskResult, parent_run_id: str) -> None:
    """Record the history again, which an interrupted earlier attempt may not have sent."""
    with record_task(TRAIN.name, parent_run_id) as run:
        record_history(run, done.location, step="update")


def find_pretrained(
    settings: str, *, reference_images: str, workspace: str, parent_run_id: str = ""
) -> TaskResult | None:
    """Return a pre-trained discriminator and record it; None without one.

    Takes the arguments of `advgrpo.tasks.pretrain_reward.pretrain_reward`.

    Raises:
        AdvGrpoError: If prompts, weights or the result cannot be read.
    """
    task = parse_json(PretrainingSettings, settings, where=_SETTINGS)
    location = pretraining_location(
        task,
        read_run_prompts(task.prompts),
        reference_images=reference_images,
        workspace=workspace,
    )
    done = find_result(location)
    if done is not None:
        with track_task(PRETRAIN_REWARD.name, parent_run_id, workspace) as run:
            run.parameters(task.model_dump(mode="json"))
            record_history(run, done.location, step="step")
    return done


def find_evaluation(
    settings: str,
    *,
    trained: str,
    reference_images: str,
    workspace: str,
    discriminator: str = "",
    processes: int = 1,
    parent_run_id: str = "",
) -> TaskResult | None:
    """Return a finished evaluation against the present champion and record it; None without one.

    Takes the arguments of `advgrpo.tasks.evaluate.evaluate`.

    Raises:
        AdvGrpoError: If an input, the registry or the result cannot be read.
    """
    del processes, discriminator  # They only enter the costs.
    config = parse_json(RunConfig, settings, where=_SETTINGS)
    location = evaluation_location(
        config,
        read_run_prompts(config.prompts),
        trained=trained,
        reference_images=reference_images,
        workspace=workspace,
        champion=_registered_champion(config),
    )
    done = find_result(location)
    if done is not None:
        with track_task(EVALUATE.name, parent_run_id, workspace) as run:
            record_evaluation(run, config, done)
    return done


def record_evaluation(run: TaskRun, config: RunConfig, result: TaskResult) -> None:
    """Record an evaluation, also a finished one: its run may have been interrupted before."""
    run.parameters(config.evaluation.model_dump(mode="json"))
    run.artifact(local_folder(result.location) / REPORT_FILE)
    run.metrics(result.metrics, step=0)


def evaluation_location(
    config: RunConfig,
    prompts: Prompts,
    *,
    trained: str,
    reference_images: str,
    workspace: str,
    champion: tuple[str, str, str],
) -> str:
    """Return the folder of an evaluation.

    The folder above it has the metrics of the batches, whose name does not depend on the champion
    or on settings of the comparison and of the report.

    Args:
        config: The run's settings.
        prompts: The run's prompts.
        trained: Location of the training result.
        reference_images: Location of reference images of the test prompts.
        workspace: Local path or `s3://` location for results.
        champion: SHA-256 of its weights, its version, and why it cannot be used.

    Raises:
        StorageError: If weights cannot be read.
    """
    shown = ("bootstrap_samples", "confidence", "grid_prompts", "price_per_hour", "currency")
    defaults = {name: EvaluationConfig.model_fields[name].default for name in shown}
    adapter, reward = _trained_weights(trained)
    # These only change what is compared or shown, so batches can be reused when they change.
    evaluation = config.evaluation.model_copy(update={**defaults, "alignment": ""})
    measured = without_prompt_files(config).model_copy(
        update={
            "policy": by_content(config.policy),
            # Imported adapters may have none, and then its backbone is not needed either.
            "discriminator": by_content(config.discriminator) if reward else config.discriminator,
            "training": by_content(config.training),
            "evaluation": by_content(evaluation),
            "promotion": PromotionConfig(),
            "tracking": TrackingConfig(),
        }
    )
    # Another release may sample images or compute metrics differently.
    batches = digest(measured, prompts.test.digest, adapter, reward, reference_images, __version__)
    return join(workspace, "evaluations", batches, digest(config, *champion))


def _trained_weights(trained: str) -> tuple[str, str]:
    """Return the SHA-256 of the adapter and of the discriminator; empty without the latter."""
    files = (f"adapter/{PEFT_WEIGHTS}", f"discriminator/{DISCRIMINATOR_WEIGHTS}")
    if (commit := read_commit(trained)) is not None:
        adapter, reward = (commit[name].sha256 if name in commit else "" for name in files)
    else:
        paths = [local_folder(trained) / name for name in files]
        adapter, reward = (file_sha256(path) if path.is_file() else "" for path in paths)
    return adapter, reward


def _registered_champion(config: RunConfig) -> tuple[str, str, str]:
    """Return what `evaluation_location` needs of the champion, without downloading it.

    Raises:
        PromotionError: If it is an adapter for another base model.
        TrackingError: If MLflow is not available.
    """
    version = None
    if address := tracking_uri():
        # MLflow takes seconds to load.
        from advgrpo.registry.champion import champion_version  # noqa: PLC0415
        from advgrpo.registry.versions import registered_sha256  # noqa: PLC0415

        name = config.promotion.registered_model
        version = champion_version(name, tracking_uri=address, policy=config.policy)
    if version is None:
        return "", "None", ""
    return registered_sha256(version, PEFT_WEIGHTS) or "", str(version.version), ""
