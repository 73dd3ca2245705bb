"""System metrics of a task's machine: CPU, memory, disk, network and GPUs.

MLflow's own collectors produce them, so that its page for system metrics finds the names. Like all
metrics they are recorded in the outbox, so an unavailable server does not block the task.
"""

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from advgrpo.errors import AdvGrpoError, ConfigError
from advgrpo.telemetry.logging import event

INTERVAL = "ADVGRPO_SYSTEM_METRICS_SECONDS"
"""Environment variable with the interval between two records; 0 disables them."""

SYSTEM_PREFIX = "system/"
"""Prefix of the names of system metrics, which differ between equal runs."""

_END_SECONDS = 10.0
_DEFAULT_SECONDS = 60.0

logger = logging.getLogger("advgrpo")


@contextmanager
def system_metrics(record: Callable[[Mapping[str, float], int], None]) -> Iterator[None]:
    """Record system metrics periodically for the duration of the block.

    Without the packages that collect them, nothing is recorded.

    Args:
        record: Function of metrics by name and their step: the time in seconds, so that a resumed
            task has no step twice.

    Raises:
        ConfigError: If the interval is not a number of seconds.
    """
    seconds = _interval()
    collectors = _collectors() if seconds else []
    if not collectors:
        yield
        return
    ended = threading.Event()

    def work() -> None:
        try:
            while not ended.wait(seconds):
                metrics = _collect(collectors)
                # Collecting takes time, and the task may have closed its outbox by now.
                if not ended.is_set():
                    record(metrics, int(time.time()))
        except AdvGrpoError as error:
            details = event("system_metrics_ended")
            logger.warning("system metrics are no longer recorded: %s", error, extra=details)

    thread = threading.Thread(target=work, name="advgrpo-system-metrics", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        # The driver of a broken GPU may hang.
        thread.join(_END_SECONDS)


def _interval() -> float:
    text = os.environ.get(INTERVAL) or str(_DEFAULT_SECONDS)
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise ConfigError(
            f"{INTERVAL}={text}: not a number of seconds",
            repair="set it to a number such as 60, to 0 to record nothing, or unset it",
        )
    return seconds


def _collectors() -> list[Any]:
    try:
        # Importing MLflow takes seconds.
        from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor  # noqa: PLC0415
        from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor  # noqa: PLC0415
        from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor  # noqa: PLC0415
        from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor  # noqa: PLC0415
    except ImportError:
        return []
    kinds: list[Any] = [CPUMonitor, DiskMonitor, NetworkMonitor]
    made = [kind() for kind in kinds]
    try:
        made.append(GPUMonitor())  # type: ignore[no-untyped-call]
    except (ImportError, RuntimeError):
        # Without NVML or a supported GPU.
        logger.debug("no GPU metrics")
    return made


def _collect(collectors: list[Any]) -> dict[str, float]:
    metrics = {}
    for collector in collectors:
        collector.collect_metrics()
        for name, value in collector.aggregate_metrics().items():
            metrics[SYSTEM_PREFIX + name] = float(value)
        # Otherwise each record would average over the whole run.
        collector.clear_metrics()
    return metrics
