"""What a run leaves in MLflow: its records, and the trained adapter as a model version.

`runs`, `sending` and `models` load MLflow, which takes seconds, and are imported by their names.
"""

from advgrpo.tracking.outbox import metric_curves
from advgrpo.tracking.task import TaskRun, task_run

__all__ = ["TaskRun", "metric_curves", "task_run"]
