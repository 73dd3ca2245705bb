"""Finished results of training tasks, found without torch.

The launcher looks here first: a second run with equal settings starts no job for them. It needs the
location of a result only, which follows from settings and prompts.
"""

from advgrpo import __version__
from advgrpo.config.tasks import (
    PretrainingSettings,
    TrainingSettings,
    parse_json,
    without_prompt_files,
)
from advgrpo.data.prompts import Prompts, read_run_prompts
from advgrpo.runtime.pipeline_tasks import PRETRAIN_REWARD, TRAIN
from advgrpo.runtime.results import TaskResult, find_result, record_history
from advgrpo.runtime.task_context import record_task, track_task
from advgrpo.storage.locations import join
from advgrpo.tasks.cache_key import cache_key

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
