"""Every error that advgrpo raises on purpose.

AdvGrpoError
├── ConfigError              a setting is unknown, ill-typed or impossible
├── DataError
│   ├── PromptFileError      a prompt file is empty, repeats a prompt or is not UTF-8
│   └── ReferenceImageError  a reference image set is incomplete or damaged
├── WeightsError             model weights are missing, damaged or of another architecture
├── StorageError
│   ├── StorageUnavailableError   the server does not answer; trying again may help
│   ├── StorageFullError          no room left
│   ├── StorageDamagedError       a file is not what was written
│   └── StorageNotFoundError      no such object or folder
├── CheckpointError          a checkpoint is damaged or belongs to another run
├── TrainingError
│   ├── RatioError           rollout and update disagree before the first optimizer step
│   ├── NonFiniteError       a loss, reward or weight became NaN or infinite
│   └── RankFailedError      a training process died
├── TrackingError            MLflow refused something, or a model version is not what it claims
├── EvaluationError          an evaluation is missing, damaged or of another adapter
├── PromotionError           a model version may not be promoted
├── PipelineError            a pipeline task failed
├── ClusterError             the cluster refused something or lacks something
│   ├── ClusterUnavailableError   the API server does not answer; trying again may help
│   ├── JobConflictError     another job has the name
│   ├── JobFailedError       a training job failed
│   ├── JobRetryableError    a training job was preempted, evicted or lost; trying again helps
│   └── JobDeadlineError     a training job took longer than it may
└── Preempted                asked to stop; state is saved and the run can be taken up again
"""

from typing import ClassVar

from advgrpo.redaction import redact


class AdvGrpoError(Exception):
    """Say what went wrong, where, and how to repair it.

    Args:
        message: One sentence that names the setting, file or object at fault. Secrets in it are
            blotted out.
        repair: What the reader can do about it; empty if there is nothing to do.
    """

    exit_code: ClassVar[int] = 1
    """Exit status of a process that ends with this error. 128 and above mean: try again."""

    def __init__(self, message: str, *, repair: str = "") -> None:
        super().__init__(redact(message))
        self.message = redact(message)
        self.repair = redact(repair)

    def __str__(self) -> str:
        return f"{self.message}\n  repair: {self.repair}" if self.repair else self.message


class ConfigError(AdvGrpoError):
    """A setting is unknown, ill-typed or impossible."""

    exit_code = 2


class DataError(AdvGrpoError):
    """Prompts or images are not what training needs."""

    exit_code = 3


class PromptFileError(DataError):
    """A prompt file is empty, repeats a prompt or is not UTF-8."""


class ReferenceImageError(DataError):
    """A reference image set is incomplete or damaged."""


class WeightsError(AdvGrpoError):
    """Model weights are missing, damaged or of another architecture."""

    exit_code = 4


class StorageError(AdvGrpoError):
    """Reading or writing a file or object failed."""

    exit_code = 5


class StorageUnavailableError(StorageError):
    """The storage server does not answer, or answers that it cannot; trying again may help."""

    exit_code = 150


class StorageFullError(StorageError):
    """There is no room left."""


class StorageDamagedError(StorageError):
    """A file is not what was written."""


class StorageNotFoundError(StorageError):
    """There is no such file, object or folder."""


class CheckpointError(AdvGrpoError):
    """A checkpoint is damaged or belongs to another run."""

    exit_code = 6


class TrainingError(AdvGrpoError):
    """Training cannot go on."""

    exit_code = 7


class RatioError(TrainingError):
    """Rollout and update disagree before the first optimizer step."""


class NonFiniteError(TrainingError):
    """A loss, reward or weight became NaN or infinite."""


class RankFailedError(TrainingError):
    """A training process died."""

    exit_code = 151


class TrackingError(AdvGrpoError):
    """MLflow refused something, or a model version is not what it claims."""

    exit_code = 8


class PipelineError(AdvGrpoError):
    """A pipeline task failed."""

    exit_code = 9


class EvaluationError(AdvGrpoError):
    """An evaluation is missing, damaged or of another adapter."""

    exit_code = 10


class PromotionError(AdvGrpoError):
    """A model version may not be promoted."""

    exit_code = 11


class ClusterError(AdvGrpoError):
    """The cluster refused something or lacks something."""

    exit_code = 12


class ClusterUnavailableError(ClusterError):
    """The API server does not answer, or answers that it cannot; trying again may help."""

    exit_code = 152


class JobConflictError(ClusterError):
    """Another job has the name that this one would get."""


class JobFailedError(ClusterError):
    """A training job failed, and would fail again."""

    exit_code = 13


class JobRetryableError(ClusterError):
    """A training job was preempted, evicted or lost; trying again goes on from its checkpoint."""

    exit_code = 153


class JobDeadlineError(ClusterError):
    """A training job took longer than it may."""

    exit_code = 14


class Preempted(AdvGrpoError):  # noqa: N818 - not a fault
    """Asked to stop; state is saved and the run can be taken up again."""

    exit_code = 143
