"""What a task's machine does meanwhile: processors, memory, disk, network and GPUs.

MLflow's own collectors measure, so the names are those of its page for system metrics. What they
measure goes the way of all metrics, through the outbox: a server that is away costs nothing.
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
"""Environment variable: time between two records; 0 makes none."""

SYSTEM_PREFIX = "system/"
"""Start of the names of what a machine does, which no two runs have equal."""

_END_SECONDS = 10.0
_DEFAULT_SECONDS = 60.0

logger = logging.getLogger("advgrpo")


@contextmanager
def system_metrics(record: Callable[[Mapping[str, float], int], None]) -> Iterator[None]:
    """Record what this machine does, now and then, while the block runs.

    Nothing is recorded where the packages that measure are not installed.

    Args:
        record: Takes measures by name, and their step: the time in seconds, so that a task that
            goes on has no step twice.

    Raises:
        ConfigError: If the environment names no time between two records.
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
                metrics = _measured(collectors)
                if not ended.is_set():
                    record(metrics, int(time.time()))
        except AdvGrpoError as error:
            note = event("system_metrics_ended")
            logger.warning("the machine is no longer measured: %s", error, extra=note)

    thread = threading.Thread(target=work, name="advgrpo-system-metrics", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        # The driver of a broken GPU may not answer.
        thread.join(_END_SECONDS)


def _interval() -> float:
    text = os.environ.get(INTERVAL) or str(_DEFAULT_SECONDS)
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise ConfigError(
            f"{INTERVAL}={text} is no time in seconds",
            repair="set it to a number such as 60, to 0 to measure nothing, or not at all",
        )
    return seconds


def _collectors() -> list[Any]:
    try:
        # MLflow takes seconds to load.
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
        # No NVML, or no GPU that it knows.
        logger.debug("no GPU is measured")
    return made


def _measured(collectors: list[Any]) -> dict[str, float]:
    metrics = {}
    for collector in collectors:
        collector.collect_metrics()
        for name, value in collector.aggregate_metrics().items():
            metrics[SYSTEM_PREFIX + name] = float(value)
        collector.clear_metrics()
    return metrics
