"""Tracking of runs in MLflow, through a local outbox.

The modules that import MLflow, which takes seconds, are imported by name: `connection`, `health`,
`run_lookup`, `runs` and `uploader`.
"""

from advgrpo.tracking.outbox import metric_curves
from advgrpo.tracking.task_run import TaskRun, task_run

__all__ = ["TaskRun", "metric_curves", "task_run"]
