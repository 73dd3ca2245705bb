"""Prometheus metrics of the launcher, the webhook receiver and the janitor.

The launcher and the webhook receiver serve metrics while they run, each from its own registry: an
unset gauge exports 0, which alerts on timestamps would take for 1970. The janitor ends before it
could be scraped, so it pushes its metrics to a Pushgateway, if one is configured.
"""

import logging
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    ProcessCollector,
    disable_created_metrics,
    push_to_gateway,
    start_http_server,
)

from advgrpo.errors import ConfigError
from advgrpo.telemetry.logging import event, fields_of

PORT = "ADVGRPO_METRICS_PORT"
"""Environment variable with the port that serves metrics; unset for none."""

PUSH_GATEWAY = "ADVGRPO_METRICS_PUSH_GATEWAY"
"""Environment variable with the URL of a Pushgateway, for short-lived processes."""

_PUSH_SECONDS = 10.0

LAUNCHER = CollectorRegistry()
"""Metrics of a launcher: its job, and the training that the job runs."""

WEBHOOK = CollectorRegistry()
"""Metrics of the webhook receiver."""

for _registry in (LAUNCHER, WEBHOOK):
    # Memory and CPU time of the process itself.
    ProcessCollector(registry=_registry)

JOB_STATE = Gauge(
    "advgrpo_launcher_job_state",
    "1 for the current state of the job, 0 for the others.",
    ["task", "state"],
    registry=LAUNCHER,
)
PODS_WANTED = Gauge(
    "advgrpo_launcher_pods_wanted", "Pods that the job needs.", ["task"], registry=LAUNCHER
)
PODS_RUNNING = Gauge(
    "advgrpo_launcher_pods_running",
    "Pods of the job that are running.",
    ["task"],
    registry=LAUNCHER,
)
RESTARTS = Counter(
    "advgrpo_launcher_restarts_total",
    "Restarts of the job's pods.",
    ["task"],
    registry=LAUNCHER,
)
LAST_POLL = Gauge(
    "advgrpo_launcher_last_poll_timestamp_seconds",
    "Time at which the state of the job was last read.",
    ["task"],
    registry=LAUNCHER,
)
API_RETRIES = Counter(
    "advgrpo_launcher_api_retries_total",
    "Retries of requests to the API server.",
    registry=LAUNCHER,
)

UPDATES = Gauge("advgrpo_training_updates", "Completed policy updates.", ["run"], registry=LAUNCHER)
UPDATES_PLANNED = Gauge(
    "advgrpo_training_updates_planned", "Planned policy updates.", ["run"], registry=LAUNCHER
)
UPDATE_SECONDS = Gauge(
    "advgrpo_training_update_seconds",
    "Duration of the last policy update.",
    ["run"],
    registry=LAUNCHER,
)
LAST_UPDATE = Gauge(
    "advgrpo_training_last_update_timestamp_seconds",
    "Time of the last policy update.",
    ["run"],
    registry=LAUNCHER,
)
REWARD = Gauge(
    "advgrpo_training_reward", "Mean reward of the last policy update.", ["run"], registry=LAUNCHER
)
LOSS = Gauge(
    "advgrpo_training_loss", "Policy loss of the last policy update.", ["run"], registry=LAUNCHER
)
LAST_CHECKPOINT = Gauge(
    "advgrpo_training_last_checkpoint_timestamp_seconds",
    "Time of the last checkpoint.",
    ["run"],
    registry=LAUNCHER,
)
CHECKPOINT_UPDATES = Gauge(
    "advgrpo_training_checkpoint_updates",
    "Policy updates in the last checkpoint.",
    ["run"],
    registry=LAUNCHER,
)
ALARMS = Counter(
    "advgrpo_training_alarms_total",
    "Alarms of the detection of reward hacking.",
    ["run"],
    registry=LAUNCHER,
)

MESSAGES = Counter(
    "advgrpo_webhook_messages_total",
    "Received messages, by HTTP status of the answer.",
    ["status"],
    registry=WEBHOOK,
)
RECONCILIATIONS = Counter(
    "advgrpo_webhook_reconciliations_total",
    "Reconciliations with the registry.",
    ["outcome"],
    registry=WEBHOOK,
)
DECISIONS = Counter(
    "advgrpo_webhook_decisions_total", "Decisions about model versions.", registry=WEBHOOK
)
LAST_RECONCILIATION = Gauge(
    "advgrpo_webhook_last_reconciliation_timestamp_seconds",
    "Time of the last complete reconciliation.",
    registry=WEBHOOK,
)

logger = logging.getLogger(__name__)


@contextmanager
def serve_metrics(registry: CollectorRegistry) -> Iterator[int | None]:
    """Serve metrics while the block runs, if the environment names a port.

    Args:
        registry: `LAUNCHER` or `WEBHOOK`.

    Yields:
        The port; None if nothing is served. A port that is in use is logged and not an error.

    Raises:
        ConfigError: If the variable is not a port number.
    """
    port = _port()
    if port is None:
        yield None
        return
    # The creation time of each counter would double the page.
    disable_created_metrics()  # type: ignore[no-untyped-call]
    try:
        server, thread = start_http_server(port, registry=registry)
    except OSError as error:
        note = event("metrics_unavailable", port=port)
        logger.warning("cannot serve metrics at port %d: %s", port, error, extra=note)
        yield None
        return
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _port() -> int | None:
    text = os.environ.get(PORT)
    if not text:
        return None
    # 0 is allowed: the system chooses a free port.
    if not text.isdecimal() or int(text) > 65535:
        raise ConfigError(
            f"{PORT}={text}: not a port number",
            repair="set it to a number from 0 to 65535, or unset it to serve no metrics",
        )
    return int(text)


def record_job_state(task: str, state: str, states: Iterable[str]) -> None:
    """Record the state of a job.

    Args:
        task: The pipeline's task.
        state: Its current state.
        states: All states.
    """
    LAST_POLL.labels(task).set_to_current_time()
    for name in states:
        # All states, so that the previous one goes back to 0.
        JOB_STATE.labels(task, name).set(float(name == state))


def record_line(line: str) -> None:
    """Record the progress that a line of a training's log reports, if it is a JSON object."""
    fields = fields_of(line)
    run = str(fields.get("run", ""))
    match fields.get("event"):
        case "update_finished":
            for gauge, name in (
                (UPDATES, "update"),
                (UPDATES_PLANNED, "updates"),
                (UPDATE_SECONDS, "seconds"),
                (REWARD, "reward"),
                (LOSS, "loss"),
            ):
                gauge.labels(run).set(_number(fields.get(name)))
            # The time of the line and not of its arrival: a retried launcher reads the log from its
            # beginning.
            LAST_UPDATE.labels(run).set(_seconds(fields))
            # Export both from the first update on: a missing series is not the same as "never
            # saved", and a rate does not see a series appear with the first alarm.
            CHECKPOINT_UPDATES.labels(run)
            ALARMS.labels(run)
        case "resumed":
            for gauge in (UPDATES, CHECKPOINT_UPDATES):
                # Without this there would be no series until the first update after the resume.
                gauge.labels(run).set(_number(fields.get("update")))
        case "checkpoint_saved":
            CHECKPOINT_UPDATES.labels(run).set(_number(fields.get("update")))
            LAST_CHECKPOINT.labels(run).set(_seconds(fields))
        case "alarm_raised":
            ALARMS.labels(run).inc()


def push_janitor_metrics(
    namespace: str, *, jobs: int, kept: int, deleted: int, failed: int
) -> None:
    """Push the result of a janitor's run to the configured Pushgateway; log a failure.

    Args:
        namespace: Namespace of the jobs.
        jobs: Number of advgrpo's jobs.
        kept: Jobs whose Workflow has not ended.
        deleted: Jobs that were deleted, or would be in a dry run.
        failed: Jobs that could not be deleted.
    """
    gateway = os.environ.get(PUSH_GATEWAY)
    if not gateway:
        return
    # A new one for each push: gauges of an earlier push must not be sent again.
    registry = CollectorRegistry()
    for name, meaning, value in (
        ("jobs", "Jobs that advgrpo created.", jobs),
        ("jobs_kept", "Jobs whose Workflow has not ended.", kept),
        ("jobs_deleted", "Jobs that the last run deleted.", deleted),
        ("jobs_failed", "Jobs that the last run could not delete.", failed),
        ("last_run_timestamp_seconds", "Time of the last run.", time.time()),
    ):
        Gauge(f"advgrpo_janitor_{name}", meaning, registry=registry).set(value)
    try:
        # PUT and not POST: replaces all metrics of the namespace, so that none of an older release
        # stays.
        push_to_gateway(
            gateway,
            job="advgrpo-janitor",
            registry=registry,
            grouping_key={"namespace": namespace},
            timeout=_PUSH_SECONDS,
        )
    # urllib raises ValueError for some malformed addresses, such as http://[host.
    except (OSError, ValueError) as error:
        note = event("metrics_unavailable", gateway=gateway)
        logger.warning("%s=%s: cannot push metrics: %s", PUSH_GATEWAY, gateway, error, extra=note)


def _number(value: object) -> float:
    # JSON has no NaN and infinity: they are logged as text.
    try:
        return float(str(value))
    except ValueError:
        return float("nan")


def _seconds(fields: Mapping[str, object]) -> float:
    try:
        return datetime.fromisoformat(str(fields["time"])).timestamp()
    except ValueError:
        return time.time()
