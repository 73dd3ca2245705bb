"""What Prometheus reads of the processes that look after jobs and models.

A launcher and the webhook receiver serve their metrics while they run, each its own: a gauge of
the other would stand at zero, which an alert takes for long ago. A janitor is gone before anybody
could ask it, so it pushes its own to a Pushgateway, if there is one.
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
"""Environment variable with the port that metrics are served at; without it, none are served."""

PUSH_GATEWAY = "ADVGRPO_METRICS_PUSH_GATEWAY"
"""Environment variable with the URL of a Pushgateway for processes that end soon."""

_PUSH_SECONDS = 10.0

LAUNCHER = CollectorRegistry()
"""What a launcher serves: its job, and the training that the job runs."""

WEBHOOK = CollectorRegistry()
"""What the webhook receiver serves."""

for _registry in (LAUNCHER, WEBHOOK):
    # Memory and processor time of the process itself.
    ProcessCollector(registry=_registry)

JOB_STATE = Gauge(
    "advgrpo_launcher_job_state",
    "1 for the state that the job is in.",
    ["task", "state"],
    registry=LAUNCHER,
)
PODS_WANTED = Gauge(
    "advgrpo_launcher_pods_wanted", "Pods that the job has.", ["task"], registry=LAUNCHER
)
PODS_RUNNING = Gauge(
    "advgrpo_launcher_pods_running", "Pods of the job that run.", ["task"], registry=LAUNCHER
)
RESTARTS = Counter(
    "advgrpo_launcher_restarts_total",
    "Pods of the job that were started again.",
    ["task"],
    registry=LAUNCHER,
)
LAST_LOOK = Gauge(
    "advgrpo_launcher_last_look_timestamp_seconds",
    "When the API server last told where the job stands.",
    ["task"],
    registry=LAUNCHER,
)
API_RETRIES = Counter(
    "advgrpo_launcher_api_retries_total",
    "Requests that the API server had to be asked again.",
    registry=LAUNCHER,
)

UPDATES = Gauge(
    "advgrpo_training_updates", "Policy updates that are done.", ["run"], registry=LAUNCHER
)
UPDATES_PLANNED = Gauge(
    "advgrpo_training_updates_planned", "Policy updates in all.", ["run"], registry=LAUNCHER
)
UPDATE_SECONDS = Gauge(
    "advgrpo_training_update_seconds", "What the last one took.", ["run"], registry=LAUNCHER
)
LAST_UPDATE = Gauge(
    "advgrpo_training_last_update_timestamp_seconds",
    "When the last one was done.",
    ["run"],
    registry=LAUNCHER,
)
REWARD = Gauge(
    "advgrpo_training_reward", "Mean reward of the last one.", ["run"], registry=LAUNCHER
)
LOSS = Gauge("advgrpo_training_loss", "Policy loss of the last one.", ["run"], registry=LAUNCHER)
LAST_CHECKPOINT = Gauge(
    "advgrpo_training_last_checkpoint_timestamp_seconds",
    "When state was last saved.",
    ["run"],
    registry=LAUNCHER,
)
CHECKPOINT_UPDATES = Gauge(
    "advgrpo_training_checkpoint_updates",
    "Policy updates that are saved.",
    ["run"],
    registry=LAUNCHER,
)
ALARMS = Counter(
    "advgrpo_training_alarms_total",
    "Alarms that the watch for reward hacking raised.",
    ["run"],
    registry=LAUNCHER,
)

MESSAGES = Counter(
    "advgrpo_webhook_messages_total",
    "Messages that came, by the HTTP status answered.",
    ["status"],
    registry=WEBHOOK,
)
RECONCILIATIONS = Counter(
    "advgrpo_webhook_reconciliations_total",
    "Looks at the registry.",
    ["outcome"],
    registry=WEBHOOK,
)
DECISIONS = Counter(
    "advgrpo_webhook_decisions_total", "Model versions that were decided about.", registry=WEBHOOK
)
LAST_RECONCILIATION = Gauge(
    "advgrpo_webhook_last_reconciliation_timestamp_seconds",
    "When a look last came to its end.",
    registry=WEBHOOK,
)

logger = logging.getLogger(__name__)


@contextmanager
def exposed(registry: CollectorRegistry) -> Iterator[int | None]:
    """Serve metrics while the block runs, if the environment names a port.

    Args:
        registry: Which: `LAUNCHER` or `WEBHOOK`.

    Yields:
        The port; None if nothing is served. A port that cannot be had stops no work: it is logged.

    Raises:
        ConfigError: If the environment names no port by its number.
    """
    port = _port()
    if port is None:
        yield None
        return
    # When each counter began is of no use to anybody here, and doubles the page.
    disable_created_metrics()  # type: ignore[no-untyped-call]
    try:
        server, thread = start_http_server(port, registry=registry)
    except OSError as error:
        note = event("metrics_unavailable", port=port)
        logger.warning("metrics cannot be served at port %d: %s", port, error, extra=note)
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
    if not text.isdecimal() or int(text) > 65535:
        raise ConfigError(
            f"{PORT}={text} is no port",
            repair="set it to a number up to 65535, or not at all to serve no metrics",
        )
    return int(text)


def note_state(task: str, state: str, states: Iterable[str]) -> None:
    """Note where a job stands.

    Args:
        task: The pipeline's task.
        state: The state that it is in.
        states: All that there are.
    """
    LAST_LOOK.labels(task).set_to_current_time()
    for name in states:
        JOB_STATE.labels(task, name).set(float(name == state))


def note_line(line: str) -> None:
    """Take from a line of a training's log, if it is a JSON object, what it says of progress."""
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
            LAST_UPDATE.labels(run).set(_seconds(fields))
            # Both are there from the first update on: what was never saved is told from what is
            # not known, and the first alarm is a rise.
            CHECKPOINT_UPDATES.labels(run)
            ALARMS.labels(run)
        case "resumed":
            for gauge in (UPDATES, CHECKPOINT_UPDATES):
                gauge.labels(run).set(_number(fields.get("update")))
        case "checkpoint_saved":
            CHECKPOINT_UPDATES.labels(run).set(_number(fields.get("update")))
            LAST_CHECKPOINT.labels(run).set(_seconds(fields))
        case "alarm_raised":
            ALARMS.labels(run).inc()


def push_cleaning(namespace: str, *, jobs: int, kept: int, deleted: int, failed: int) -> None:
    """Push what a janitor did, if the environment names a Pushgateway; a fault is logged.

    Args:
        namespace: Whose jobs it looked at.
        jobs: How many there are of ours.
        kept: Those whose Workflow goes on.
        deleted: Those that it deleted, or would have.
        failed: Those that could not be deleted.
    """
    gateway = os.environ.get(PUSH_GATEWAY)
    if not gateway:
        return
    registry = CollectorRegistry()
    for name, meaning, value in (
        ("jobs", "Jobs of ours that the janitor found.", jobs),
        ("jobs_kept", "Jobs whose Workflow goes on.", kept),
        ("jobs_deleted", "Jobs that the janitor's last run deleted.", deleted),
        ("jobs_failed", "Jobs that it could not delete.", failed),
        ("last_run_timestamp_seconds", "When the janitor last looked.", time.time()),
    ):
        Gauge(f"advgrpo_janitor_{name}", meaning, registry=registry).set(value)
    try:
        push_to_gateway(
            gateway,
            job="advgrpo-janitor",
            registry=registry,
            grouping_key={"namespace": namespace},
            timeout=_PUSH_SECONDS,
        )
    except (OSError, ValueError) as error:
        note = event("metrics_unavailable", gateway=gateway)
        logger.warning("%s=%s takes no metrics: %s", PUSH_GATEWAY, gateway, error, extra=note)


def _number(value: object) -> float:
    # What JSON has no number for is a text such as "nan".
    try:
        return float(str(value))
    except ValueError:
        return float("nan")


def _seconds(fields: Mapping[str, object]) -> float:
    try:
        return datetime.fromisoformat(str(fields["time"])).timestamp()
    except ValueError:
        return time.time()
