"""Errors that advgrpo raises on purpose; their exit statuses are part of the command line."""

from typing import ClassVar

from advgrpo.redaction import redact


class AdvGrpoError(Exception):
    """Base class: an error with its place and its repair.

    Args:
        message: One sentence that names the setting, file or object at fault. Secrets are redacted.
        repair: What to do about it: a command, a setting, a value; empty if nothing helps.
    """

    # Job operators with the restart policy ExitCode restart a pod whose status is 128 or more.
    exit_code: ClassVar[int] = 1
    """Exit status of a process that ends with this error; from 128 on, a retry may succeed."""

    def __init__(self, message: str, *, repair: str = "") -> None:
        # Redacted here, because messages reach logs, MLflow and result files on several paths.
        super().__init__(redact(message))
        self.message = redact(message)
        self.repair = redact(repair)

    def __str__(self) -> str:
        # In the text too: some callers print `str(error)` alone.
        return f"{self.message}\n  repair: {self.repair}" if self.repair else self.message


class ConfigError(AdvGrpoError):
    """A setting is unknown, ill-typed or impossible."""

    exit_code = 2


class DataError(AdvGrpoError):
    """Prompts or images cannot be used for training."""

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
    """The storage server does not respond or is unavailable; retrying may help."""

    exit_code = 150


class StorageFullError(StorageError):
    """No space is left on a disk or in a bucket."""


class StorageDamagedError(StorageError):
    """A file differs from what was written."""


class StorageNotFoundError(StorageError):
    """A file, object or folder does not exist."""


class CheckpointError(AdvGrpoError):
    """A checkpoint is damaged or belongs to another run."""

    exit_code = 6


class TrainingError(AdvGrpoError):
    """Training cannot continue."""

    exit_code = 7


class RatioError(TrainingError):
    """Rollout and update disagree before the first optimizer step."""


class OldPolicyError(TrainingError):
    """The old policy of an algorithm does not relate to the trained one as it must."""


class NonFiniteError(TrainingError):
    """A loss, reward or weight became NaN or infinite."""


class RankFailedError(TrainingError):
    """A training process died."""

    exit_code = 151


class TrackingError(AdvGrpoError):
    """MLflow refused a request, or a model version differs from its record."""

    exit_code = 8


class PipelineError(AdvGrpoError):
    """A pipeline task failed."""

    exit_code = 9


class EvaluationError(AdvGrpoError):
    """An evaluation is missing, damaged or of another adapter."""

    exit_code = 10


class JudgeUnavailableError(EvaluationError):
    """A judge behind an HTTP endpoint does not respond; retrying may help."""

    exit_code = 154


class PromotionError(AdvGrpoError):
    """A model version may not be promoted."""

    exit_code = 11


class ClusterError(AdvGrpoError):
    """The cluster refused a request or lacks a resource."""

    exit_code = 12


class ClusterUnavailableError(ClusterError):
    """The API server does not respond or is unavailable; retrying may help."""

    exit_code = 152


# Not retried: the other job would have to end or be deleted first.
class JobConflictError(ClusterError):
    """Another job has the name that this one would have."""


class JobFailedError(ClusterError):
    """A training job failed, and would fail again."""

    exit_code = 13


class JobRetryableError(ClusterError):
    """A training job was preempted, evicted or lost; a retry resumes from its checkpoint."""

    exit_code = 153


class JobDeadlineError(ClusterError):
    """A training job exceeded its deadline."""

    exit_code = 14


class Preempted(AdvGrpoError):  # noqa: N818 - not a fault
    """Stopped on request; state is saved and the run can be resumed."""

    # 128 + SIGTERM, as shells report it.
    exit_code = 143
