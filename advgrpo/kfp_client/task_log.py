"""The error at the end of a task's log, which Kubeflow Pipelines itself does not report."""

import re
from collections.abc import Iterable, Iterator
from typing import Any

from advgrpo.errors import AdvGrpoError, ClusterError
from advgrpo.kfp_client.server import KfpServer
from advgrpo.telemetry.logging import fields_of

# Text format of `log_error`.
_ERROR = re.compile(r"^error: (?P<message>.+)\n  repair: (?P<repair>.+)", re.MULTILINE)
# A driver of Pipelines runs no code of advgrpo; the last line of its log is glog's.
_DRIVER = re.compile(r"^F\d{4} \S+ +\d+ \S+\] KFP driver: (?P<message>.+)", re.MULTILINE)
_MOST_LOGS = 6
"""Logs that are read at most: a task has a pod per attempt."""


def find_error(server: KfpServer, run_id: str, tasks: Iterable[Any]) -> AdvGrpoError | None:
    """Return the error that a task's pod ended with; None if no log can be read or has one.

    Args:
        server: Server of the run.
        run_id: Id of the run.
        tasks: Details of the failed tasks.
    """
    # Pipelines lists Argo's nodes in no order, most of which are groups and have no log.
    for pod in list(dict.fromkeys(_pods(sorted(tasks, key=_rank))))[:_MOST_LOGS]:
        try:
            text = server.read_log(run_id, pod)
        # The run's page has the log. That it cannot be read here must not hide the failure.
        except ClusterError:
            continue
        if error := parse_error(text):
            return error
    return None


def parse_error(log: str) -> AdvGrpoError | None:
    """Return the last error in a log of either format, or in that of a driver, if any."""
    for line in reversed(log.splitlines()):
        fields = fields_of(line)
        if fields.get("event") in {"error", "fault"}:
            return AdvGrpoError(str(fields["message"]), repair=str(fields.get("repair", "")))
    found = list(_ERROR.finditer(log))
    if not found:
        driver = _DRIVER.search(log)
        return AdvGrpoError(driver["message"]) if driver else None
    return AdvGrpoError(found[-1]["message"], repair=found[-1]["repair"])


def _rank(task: Any) -> int:  # noqa: ANN401 - untyped library
    """Return the rank of a node: containers of tasks first, then drivers."""
    name = str(task.display_name)
    return 0 if name.startswith("executor") else 1 if "-driver" in name else 2


def _pods(tasks: Iterable[Any]) -> Iterator[str]:
    for task in tasks:
        # The container of a task is the child of its node.
        for node in (*(task.child_tasks or ()), task):
            if node.pod_name:
                yield str(node.pod_name)
