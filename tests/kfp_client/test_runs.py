import pytest

from advgrpo.errors import ClusterError, ClusterUnavailableError, ConfigError
from advgrpo.kfp_client import (
    KfpServer,
    PipelineVersion,
    Schedule,
    Started,
    start_recurring_run,
    start_run,
)
from advgrpo.testing import KfpFault, StubKfp

ARGUMENTS = {"workspace": "s3://b/w", "processes": 8, "overrides": ["seed=1"]}


def _start(server: KfpServer, version: PipelineVersion, **more: str) -> Started:
    return start_run(server, version, ARGUMENTS, experiment="e", name="n", **more)


def _repeat(server: KfpServer, version: PipelineVersion, every: str, name: str = "n") -> Started:
    return start_recurring_run(
        server, version, ARGUMENTS, schedule=Schedule.parse(every), experiment="e", name=name
    )


def test_a_run_gets_its_arguments_unchanged(
    stub: StubKfp, server: KfpServer, version: PipelineVersion
) -> None:
    run = _start(server, version, service_account="advgrpo-launcher")
    kept = stub.runs[run.id]
    assert kept["runtime_config"] == {"parameters": ARGUMENTS}
    assert kept["pipeline_version_reference"] == {
        "pipeline_id": version.pipeline_id,
        "pipeline_version_id": version.version_id,
    }
    assert kept["service_account"] == "advgrpo-launcher"
    assert run.url == f"{stub.endpoint}/#/runs/details/{run.id}"


@pytest.mark.parametrize("name", ["e", "100% a+b", "Grüße"])
def test_an_experiment_is_created_once(
    stub: StubKfp, server: KfpServer, version: PipelineVersion, name: str
) -> None:
    for _ in range(2):
        start_run(server, version, ARGUMENTS, experiment=name, name="n")
    assert len(stub.experiments) == 1
    assert len(stub.runs) == 2


@pytest.mark.parametrize("fault", ["lose_answer", 503, "drop"])
def test_a_start_never_creates_two_runs(
    stub: StubKfp, server: KfpServer, version: PipelineVersion, fault: KfpFault
) -> None:
    earlier = _start(server, version)
    stub.fail("POST", "/runs", fault)
    try:
        assert _start(server, version).id != earlier.id
    except ClusterUnavailableError:
        assert fault != "lose_answer"
    assert len(stub.runs) == (2 if fault == "lose_answer" else 1)


def test_a_deleted_experiment_is_an_error(
    stub: StubKfp, server: KfpServer, version: PipelineVersion
) -> None:
    stub.fail("POST", "/runs", 404)
    with pytest.raises(ClusterError, match="cannot start the run"):
        _start(server, version)


def test_a_missing_parameter_is_refused_with_the_servers_message(
    server: KfpServer, version: PipelineVersion
) -> None:
    with pytest.raises(ClusterError, match="workspace"):
        start_run(server, version, {}, experiment="e", name="n")


@pytest.mark.parametrize(
    ("every", "trigger"),
    [
        ("12h", {"periodic_schedule": {"interval_second": "43200"}}),
        ("7d", {"periodic_schedule": {"interval_second": "604800"}}),
        ("0 3 * * *", {"cron_schedule": {"cron": "0 0 3 * * *"}}),
        ("0 0 9 ? * 2-6", {"cron_schedule": {"cron": "0 0 9 ? * 2-6"}}),
        ("@daily", {"cron_schedule": {"cron": "@daily"}}),
    ],
)
def test_a_recurring_run_is_enabled_and_its_parameters_keep_their_types(
    stub: StubKfp, server: KfpServer, version: PipelineVersion, every: str, trigger: object
) -> None:
    made = stub.recurring_runs[_repeat(server, version, every).id]
    assert made["mode"] == "ENABLE"
    assert made["trigger"] == trigger
    assert made["runtime_config"] == {"parameters": ARGUMENTS}
    assert (made["max_concurrency"], made["no_catchup"]) == ("1", True)


def test_a_second_recurring_run_of_the_name_is_refused(
    stub: StubKfp, server: KfpServer, version: PipelineVersion
) -> None:
    first = _repeat(server, version, "12h")
    with pytest.raises(ClusterError, match=first.id):
        _repeat(server, version, "1h")
    _repeat(server, version, "1h", name="other")
    assert len(stub.recurring_runs) == 2


@pytest.mark.parametrize("every", ["", "often", "5s", "0h", "* * *", "a; b c d e", "1 h"])
def test_an_invalid_schedule_is_refused(every: str) -> None:
    with pytest.raises(ConfigError, match="neither an interval"):
        Schedule.parse(every)
