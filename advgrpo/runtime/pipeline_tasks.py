"""The tasks of the pipeline, in order."""

from dataclasses import dataclass
from typing import Generic, TypeVar

from advgrpo.runtime.results import ReferenceImageLocations, TaskResult

R = TypeVar("R")


@dataclass(frozen=True)
class PipelineTask:
    """A task of the pipeline."""

    name: str
    """Its name in logs, progress events, MLflow runs and folders of the workspace."""

    title: str
    """Its name in the demo."""


@dataclass(frozen=True)
class JobTask(PipelineTask, Generic[R]):
    """A task that a cluster runs as a job of its own."""

    function: str
    """`module:name` of the function. A text, because the launcher's image cannot import it."""

    result: type[R]
    """Type that the function returns."""

    finished: str = ""
    """`module:name` of a function of the same arguments that returns an earlier result or None. The
    launcher calls it before it starts a job, so it must not need torch. Empty for none."""


RESOLVE_CONFIG = PipelineTask("resolve-config", "Settings")
REFERENCE_IMAGES = JobTask(
    "reference-images",
    "Reference images",
    "advgrpo.tasks.reference_images:make_reference_images",
    ReferenceImageLocations,
    finished="advgrpo.tasks.finished_images:find_reference_images",
)
PRETRAIN_REWARD = JobTask(
    "pretrain-reward",
    "Reward pre-training",
    "advgrpo.tasks.pretrain_reward:pretrain_reward",
    TaskResult,
    finished="advgrpo.tasks.finished:find_pretrained",
)
TRAIN = JobTask(
    "train",
    "Adversarial training",
    "advgrpo.tasks.train:train",
    TaskResult,
    finished="advgrpo.tasks.finished:find_trained",
)
EVALUATE = JobTask(
    "evaluate",
    "Evaluation",
    "advgrpo.tasks.evaluate:evaluate",
    TaskResult,
    finished="advgrpo.tasks.finished:find_evaluation",
)
REGISTER = PipelineTask("register", "Registration")

PIPELINE_TASKS: tuple[PipelineTask, ...] = (
    RESOLVE_CONFIG,
    REFERENCE_IMAGES,
    PRETRAIN_REWARD,
    TRAIN,
    EVALUATE,
    REGISTER,
)
JOB_TASKS = tuple(task for task in PIPELINE_TASKS if isinstance(task, JobTask))
