"""What a run leaves in MLflow: its records, and the trained adapter as a model version.

The modules that load MLflow, which takes seconds, are imported by their names: `runs`, `sending`,
`registering`, `models`, `champion`.
"""

from advgrpo.tracking.outbox import metric_curves
from advgrpo.tracking.task_run import TaskRun, task_run

__all__ = ["TaskRun", "metric_curves", "task_run"]
