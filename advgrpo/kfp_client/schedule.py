"""Runs that Kubeflow Pipelines starts again and again."""

import re
from dataclasses import dataclass
from typing import Any, Self

from advgrpo.errors import ClusterError, ConfigError
from advgrpo.kfp_client.runs import Arguments, Started, experiment_named, reference_to
from advgrpo.kfp_client.server import KfpServer
from advgrpo.kfp_client.versions import PipelineVersion, named

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_INTERVAL = re.compile(r"(\d+)([smhd])")
_CRON_FIELD = re.compile(r"[0-9A-Za-z*/,?-]+")
_NAMED = ("@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly")


@dataclass(frozen=True)
class Schedule:
    """When to run: at the times of a cron expression, or so many seconds apart."""

    cron: str = ""
    """Six fields, seconds first."""

    interval_seconds: int = 0

    @classmethod
    def read(cls, text: str) -> Self:
        """Read an interval such as `12h` or a cron expression.

        Args:
            text: A number and `s`, `m`, `h` or `d`; or a cron expression of five fields, or of six
                with the seconds first, as Kubeflow Pipelines has it; or a name such as `@daily`.

        Raises:
            ConfigError: If it is neither.
        """
        if interval := _INTERVAL.fullmatch(text.strip()):
            seconds = int(interval[1]) * _SECONDS[interval[2]]
            if seconds >= _SECONDS["m"]:
                return cls(interval_seconds=seconds)
        if text.strip() in _NAMED:
            return cls(cron=text.strip())
        fields = text.split()
        if len(fields) in {5, 6} and all(_CRON_FIELD.fullmatch(field) for field in fields):
            return cls(cron=" ".join(["0", *fields] if len(fields) == 5 else fields))
        raise ConfigError(
            f"{text!r} is neither an interval of a minute or more nor a cron expression",
            repair="write for instance 12h, 7d, @daily or '0 3 * * *'",
        )

    def trigger(self, server: KfpServer) -> Any:  # noqa: ANN401 - untyped library
        """Write it as the server wants it."""
        models = server.models
        if self.cron:
            return models.V2beta1Trigger(cron_schedule=models.V2beta1CronSchedule(cron=self.cron))
        periodic = models.V2beta1PeriodicSchedule(interval_second=str(self.interval_seconds))
        return models.V2beta1Trigger(periodic_schedule=periodic)


def start_recurring_run(
    server: KfpServer,
    version: PipelineVersion,
    arguments: Arguments,
    *,
    schedule: Schedule,
    experiment: str,
    name: str,
    service_account: str = "",
) -> Started:
    """Let a pipeline version run at certain times, from now on.

    Runs never overlap, and those that were missed are not made up for.

    Args:
        server: Where.
        version: Of the pipeline.
        arguments: Values of the pipeline's parameters.
        schedule: When.
        experiment: Groups runs in the user interface; created if there is none of the name.
        name: What the user interface calls it; no other of the experiment may have the name, so
            that asking twice never runs twice.
        service_account: Kubernetes service account of the tasks' pods; empty for the server's.

    Raises:
        ClusterError: If the server refuses, or has one of the name.
        ClusterUnavailableError: If it does not answer.
    """
    models = server.models
    experiment_id = experiment_named(server, experiment)
    _refuse_second(server, experiment_id, name)
    body = models.V2beta1RecurringRun(
        experiment_id=experiment_id,
        display_name=name,
        mode=models.RecurringRunMode.ENABLE,
        pipeline_version_reference=reference_to(server, version),
        runtime_config=models.V2beta1RuntimeConfig(parameters=dict(arguments)),
        trigger=schedule.trigger(server),
        max_concurrency="1",
        no_catchup=True,
        namespace=server.namespace,
        service_account=service_account or None,
    )
    made = server.change(
        "create the recurring run",
        server.recurring_runs.recurring_run_service_create_recurring_run,
        recurring_run=body,
    )
    return Started(
        str(made.recurring_run_id), server.page(f"recurringrun/details/{made.recurring_run_id}")
    )


def _refuse_second(server: KfpServer, experiment_id: str, name: str) -> None:
    answer = server.look(
        f"look for the recurring run {name!r}",
        server.recurring_runs.recurring_run_service_list_recurring_runs,
        experiment_id=experiment_id,
        filter=named(name),
    )
    for found in answer.recurring_runs or []:
        page = server.page(f"recurringrun/details/{found.recurring_run_id}")
        raise ClusterError(
            f"there is a recurring run {name!r} already: {page}",
            repair="delete it there first, or give another --name",
        )
