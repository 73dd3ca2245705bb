"""Recurring runs, and the schedules that start them."""

import re
from dataclasses import dataclass
from typing import Any, Self

from advgrpo.errors import ClusterError, ConfigError
from advgrpo.kfp_client.runs import Arguments, Started, get_or_create_experiment, version_reference
from advgrpo.kfp_client.server import KfpServer
from advgrpo.kfp_client.versions import PipelineVersion, name_filter

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_INTERVAL = re.compile(r"(\d+)([smhd])")
_CRON_FIELD = re.compile(r"[0-9A-Za-z*/,?-]+")
_ALIASES = ("@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly")


@dataclass(frozen=True)
class Schedule:
    """A cron expression or an interval."""

    cron: str = ""
    """Six fields, seconds first."""

    interval_seconds: int = 0

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse an interval such as `12h` or a cron expression.

        Args:
            text: A number and `s`, `m`, `h` or `d`; a cron expression of five fields, or of six
                with seconds first, as Kubeflow Pipelines uses; or a name such as `@daily`.

        Raises:
            ConfigError: If it is neither.
        """
        if interval := _INTERVAL.fullmatch(text.strip()):
            seconds = int(interval[1]) * _SECONDS[interval[2]]
            if seconds >= _SECONDS["m"]:
                return cls(interval_seconds=seconds)
        if text.strip() in _ALIASES:
            return cls(cron=text.strip())
        fields = text.split()
        if len(fields) in {5, 6} and all(_CRON_FIELD.fullmatch(field) for field in fields):
            # Cron expressions of Kubeflow Pipelines have a field for seconds, the usual ones do
            # not.
            return cls(cron=" ".join(["0", *fields] if len(fields) == 5 else fields))
        raise ConfigError(
            f"--every={text!r}: is neither an interval of a minute or more nor a cron expression",
            repair="write, for instance, 12h, 7d, @daily or '0 3 * * *'",
        )

    def trigger(self, server: KfpServer) -> Any:  # noqa: ANN401 - untyped library
        """Return it as a request's trigger."""
        models = server.models
        if self.cron:
            return models.V2beta1Trigger(cron_schedule=models.V2beta1CronSchedule(cron=self.cron))
        # An int64, which the JSON of protobuf writes as a string.
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
    """Create a recurring run of a pipeline version.

    Runs never overlap, and missed ones are not caught up.

    Args:
        server: The server.
        version: Pipeline version.
        arguments: Values of the pipeline's parameters.
        schedule: Times of the runs.
        experiment: Name of the experiment that groups runs; created if it does not exist.
        name: Display name, unique in the experiment, so that a repeated request never runs twice.
        service_account: Kubernetes service account of the tasks' pods; empty for the server's.

    Raises:
        ClusterError: If the server refuses, or a recurring run of the name exists.
        ClusterUnavailableError: If it does not answer.
    """
    models = server.models
    experiment_id = get_or_create_experiment(server, experiment)
    # The server accepts several recurring runs of one name.
    _refuse_duplicate(server, experiment_id, name)
    body = models.V2beta1RecurringRun(
        experiment_id=experiment_id,
        display_name=name,
        mode=models.RecurringRunMode.ENABLE,
        pipeline_version_reference=version_reference(server, version),
        runtime_config=models.V2beta1RuntimeConfig(parameters=dict(arguments)),
        trigger=schedule.trigger(server),
        # Equal runs share their folders in the workspace.
        max_concurrency="1",
        no_catchup=True,
        namespace=server.namespace,
        service_account=service_account or None,
    )
    created = server.write(
        "create the recurring run",
        server.recurring_runs.recurring_run_service_create_recurring_run,
        recurring_run=body,
    )
    return Started(
        str(created.recurring_run_id),
        server.page(f"recurringrun/details/{created.recurring_run_id}"),
    )


def _refuse_duplicate(server: KfpServer, experiment_id: str, name: str) -> None:
    answer = server.read(
        f"find the recurring run {name!r}",
        server.recurring_runs.recurring_run_service_list_recurring_runs,
        experiment_id=experiment_id,
        filter=name_filter(name),
    )
    for found in answer.recurring_runs or []:
        page = server.page(f"recurringrun/details/{found.recurring_run_id}")
        raise ClusterError(
            f"a recurring run {name!r} exists: {page}",
            repair="delete it on that page, or use another --name",
        )
