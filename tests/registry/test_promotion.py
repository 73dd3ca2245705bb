import math
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from typer.testing import CliRunner

from advgrpo import storage
from advgrpo.cli.main import app
from advgrpo.config import Gate
from advgrpo.demo.servers import EmbeddedServers
from advgrpo.errors import ClusterUnavailableError, PromotionError, TrackingError
from advgrpo.registry.champion import promotion_lock
from advgrpo.registry.champion_changes import Promotion
from advgrpo.registry.promotion import promote, rollback
from advgrpo.registry.reconciliation import reconcile
from advgrpo.registry.registration import GATES_TAG
from advgrpo.registry.versions import MODEL_TAG
from tests.tracking.world import GATE, evidence, register, settings, write_adapter

TO_CHAMPION = Gate(metric="judge.score", against="champion", comparison="at_least", bound=0)

Register = Callable[..., int]
run = CliRunner().invoke


@pytest.fixture
def client(stores: EmbeddedServers) -> MlflowClient:
    return MlflowClient(stores.tracking_uri)


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """A registered model for each test."""
    return (
        str(request.node.name).replace("test_", "")[:60].translate(str.maketrans("[]/:.", "-----"))
    )


@pytest.fixture(scope="module")
def logged_models() -> dict[object, ModelVersion]:
    """The first version of each logged model, as it was registered."""
    return {}


@pytest.fixture
def registered(
    stores: EmbeddedServers,
    client: MlflowClient,
    name: str,
    tmp_path: Path,
    logged_models: dict[object, ModelVersion],
) -> Register:
    """A function that registers versions.

    Versions of equal evidence share their files, unless these are to be changed: a registration
    takes 27 requests, another version of the same logged model three.
    """

    def one(
        gain: float = 0.2,
        *,
        champion: int | None = None,
        gates: tuple[Gate, ...] = (TO_CHAMPION,),
        overrides: tuple[str, ...] = (),
        own_files: bool = False,
    ) -> int:
        key = (str(gain), champion, gates, overrides)
        if own_files or key not in logged_models:
            run_id = str(client.create_run("0").info.run_id)
            adapter = write_adapter(tmp_path / "adapter")
            proof = evidence(gain, champion=champion, gates=gates)
            config = settings(name, *overrides)
            version = register(stores.tracking_uri, config, adapter, run_id, proof).version
            if not own_files:
                logged_models[key] = client.get_model_version(name, str(version))
            return version
        first = logged_models[key]
        with suppress(MlflowException):
            client.create_registered_model(name, tags={MODEL_TAG: "adapter"})
        version = client.create_model_version(
            name,
            first.source,
            first.run_id,
            tags=first.tags,
            model_id=first.source.removeprefix("models:/"),
            await_creation_for=0,
        ).version
        if first.tags[GATES_TAG] == "passed":
            client.set_registered_model_alias(name, "candidate", version)
        return int(version)

    return one


@pytest.fixture
def promoted(stores: EmbeddedServers, name: str) -> Callable[..., Promotion]:
    def one(which: str | int, **others: object) -> Promotion:
        return promote(name, str(which), tracking_uri=stores.tracking_uri, by="ann", **others)  # type: ignore[arg-type]

    return one


def aliases(client: MlflowClient, name: str) -> dict[str, int]:
    found = client.get_registered_model(name).aliases
    return {alias: int(version) for alias, version in found.items()}


def decision(client: MlflowClient, name: str, version: int) -> str:
    return str(client.get_model_version(name, str(version)).tags.get("advgrpo.decision", ""))


def change_file(client: MlflowClient, name: str, version: int, file: str) -> None:
    source = client.get_model_version(name, str(version)).source.removeprefix("models:/")
    storage.write_bytes(f"s3://advgrpo/mlflow/0/models/{source}/artifacts/{file}", b"{}")


def test_a_candidate_becomes_champion_and_the_old_champion_previous(
    client: MlflowClient, name: str, registered: Register, promoted: Callable[..., Promotion]
) -> None:
    registered()
    assert aliases(client, name) == {"candidate": 1}
    assert promoted("candidate") == Promotion(name, 1, f"models:/{name}/1")
    assert aliases(client, name) == {"champion": 1}
    registered(champion=1)
    promoted(2)
    assert aliases(client, name) == {"champion": 2, "previous": 1}
    assert decision(client, name, 2).startswith("promoted; before it, the champion was version 1")
    assert promoted(2).version == 2
    assert aliases(client, name) == {"champion": 2, "previous": 1}


def test_a_failed_gate_needs_an_override_with_a_reason(
    client: MlflowClient, name: str, registered: Register, promoted: Callable[..., Promotion]
) -> None:
    registered(gates=(TO_CHAMPION, Gate(metric="clip.score", comparison="at_least", bound=0)))
    with pytest.raises(
        PromotionError, match=r"gate clip\.score at least base failed: clip\.score is missing"
    ):
        promoted(1)
    assert aliases(client, name) == {}
    assert decision(client, name, 1).startswith("refused: the gate clip.score")
    promoted(1, override_reason="judged by eye")
    assert aliases(client, name) == {"champion": 1}
    text = decision(client, name, 1)
    assert text.startswith("promoted by override (judged by eye) although: the gate clip.score")
    assert "(ann, " in text


def test_without_gates_nothing_is_promoted(
    registered: Register, promoted: Callable[..., Promotion]
) -> None:
    registered(gates=())
    with pytest.raises(PromotionError, match="registered without gates"):
        promoted(1)


def test_a_tag_with_passed_gates_is_not_trusted(
    client: MlflowClient, name: str, registered: Register, promoted: Callable[..., Promotion]
) -> None:
    registered(gain=0.0, gates=(GATE,))
    client.set_model_version_tag(name, "1", "advgrpo.gates", "passed")
    with pytest.raises(PromotionError, match=r"lower edge is -0\.05"):
        promoted(1)


def test_a_version_compared_with_an_earlier_champion_is_refused(
    client: MlflowClient, name: str, registered: Register, promoted: Callable[..., Promotion]
) -> None:
    registered()
    registered()
    promoted(1)
    with pytest.raises(PromotionError, match="compared with none, but the champion is now version"):
        promoted(2)
    assert aliases(client, name)["champion"] == 1


@pytest.mark.parametrize("file", ["artifacts/adapter/adapter_model.safetensors", "evidence.json"])
def test_a_version_whose_files_changed_is_refused_even_by_override(
    client: MlflowClient,
    name: str,
    registered: Register,
    promoted: Callable[..., Promotion],
    file: str,
) -> None:
    registered()
    promoted(1)
    registered(champion=1, own_files=True)
    change_file(client, name, 2, file)
    with pytest.raises(PromotionError, match="differs from the registered file"):
        promoted(2, override_reason="hurry")
    assert aliases(client, name)["champion"] == 1


def test_a_version_without_its_files_is_refused(
    client: MlflowClient, name: str, registered: Register, promoted: Callable[..., Promotion]
) -> None:
    registered(own_files=True)
    source = client.get_model_version(name, "1").source.removeprefix("models:/")
    storage.delete(f"s3://advgrpo/mlflow/0/models/{source}/artifacts")
    with pytest.raises(PromotionError, match="is not promoted"):
        promoted(1, override_reason="hurry")


def test_a_metric_that_is_not_finite_prevents_promotion(
    registered: Register, promoted: Callable[..., Promotion]
) -> None:
    registered(gain=math.nan, gates=(GATE,))
    with pytest.raises(PromotionError, match="has no finite value and interval"):
        promoted(1)


def test_an_adapter_for_another_base_is_refused_even_by_override(
    client: MlflowClient, name: str, registered: Register, promoted: Callable[..., Promotion]
) -> None:
    registered()
    promoted(1)
    registered(champion=1, overrides=("policy.weights.location=/models/other",))
    with pytest.raises(PromotionError, match="adapter for the base model /models/other"):
        promoted(2, override_reason="hurry")
    assert aliases(client, name)["champion"] == 1


def test_of_two_concurrent_promotions_one_succeeds(
    client: MlflowClient, name: str, registered: Register, promoted: Callable[..., Promotion]
) -> None:
    registered()
    promoted(1)
    versions = [registered(champion=1), registered(champion=1)]
    start = threading.Barrier(2)
    outcomes: dict[int, str] = {}

    def run(version: int) -> None:
        start.wait()
        try:
            promoted(version)
            outcomes[version] = "won"
        except PromotionError as error:
            outcomes[version] = error.message

    threads = [threading.Thread(target=run, args=(version,)) for version in versions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (winner,) = [version for version, output in outcomes.items() if output == "won"]
    (loser,) = [version for version in versions if version != winner]
    assert f"the champion is now version {winner}" in outcomes[loser]
    assert aliases(client, name)["champion"] == winner
    assert aliases(client, name)["previous"] == 1
    assert client.search_registered_models(f"name like '{name}-promotion-lock%'") == []


def test_an_abandoned_lock_is_broken_after_its_lease(
    client: MlflowClient, name: str, registered: Register
) -> None:
    registered()
    client.create_registered_model(f"{name}-promotion-lock", tags={"advgrpo.lock": "dead"})
    with (
        pytest.raises(PromotionError, match="another process has been changing"),
        promotion_lock(client, name, wait_seconds=0.3),
    ):
        pass
    with promotion_lock(client, name, wait_seconds=5, lease_seconds=0):
        pass
    assert client.search_registered_models(f"name like '{name}-promotion-lock%'") == []


def test_rollback_restores_the_previous_champion(
    stores: EmbeddedServers,
    client: MlflowClient,
    name: str,
    registered: Register,
    promoted: Callable[..., Promotion],
) -> None:
    def back() -> Promotion:
        uri = stores.tracking_uri
        return rollback(name, tracking_uri=uri, by="ann", reason="it draws noise")

    registered(own_files=True)
    promoted(1)
    with pytest.raises(PromotionError, match="had no champion before version 1"):
        back()
    registered(champion=1)
    promoted(2)
    assert back().version == 1
    assert aliases(client, name) == {"champion": 1}
    assert decision(client, name, 2).startswith("rolled back to version 1: it draws noise (ann")
    registered(champion=1)
    promoted(3)
    change_file(client, name, 1, "MLmodel")
    with pytest.raises(TrackingError, match=r"MLmodel of .* differs from the registered"):
        back()
    assert aliases(client, name) == {"champion": 3, "previous": 1}


def test_an_alias_moved_by_hand_is_kept_or_moved_back_by_the_check(
    stores: EmbeddedServers, client: MlflowClient, name: str, registered: Register
) -> None:
    def run_once() -> list[str]:
        return reconcile(stores.tracking_uri, name=name)

    registered(gain=0.2, gates=(Gate(metric="judge.score", comparison="at_least", bound=1),))
    client.set_registered_model_alias(name, "champion", "1")
    (text,) = run_once()
    assert "refused: the gate judge.score at least base + 1 failed" in text
    assert "moved back to none" in text
    assert aliases(client, name) == {}
    registered()
    client.set_registered_model_alias(name, "champion", "2")
    (text,) = run_once()
    assert text.endswith("accepted as champion: all gates passed")
    client.set_registered_model_alias(name, "champion", "1")
    (text,) = run_once()
    assert "moved back to version 2" in text
    assert aliases(client, name) == {"champion": 2}
    assert "a user of MLflow" in decision(client, name, 1)
    assert run_once() == []


def test_an_alias_moved_to_the_previous_champion_is_a_rollback(
    stores: EmbeddedServers,
    client: MlflowClient,
    name: str,
    registered: Register,
    promoted: Callable[..., Promotion],
) -> None:
    registered()
    promoted(1)
    registered(champion=1)
    promoted(2)
    client.set_registered_model_alias(name, "champion", "1")
    (text,) = reconcile(stores.tracking_uri, name=name)
    assert text == f"models:/{name}/1: champion again instead of version 2"
    assert aliases(client, name) == {"champion": 1}
    with pytest.raises(PromotionError, match="it was rolled back: the alias was moved back"):
        promoted(2)
    promoted(2, override_reason="the complaint was about another model")
    assert aliases(client, name) == {"champion": 2, "previous": 1}
    rollback(name, tracking_uri=stores.tracking_uri, by="ann", reason="it was not")
    kept = client.get_model_version(name, "2").tags["advgrpo.override"]
    assert "the complaint was about another model" in kept


def test_an_interrupted_promotion_is_completed(
    stores: EmbeddedServers,
    client: MlflowClient,
    name: str,
    registered: Register,
    promoted: Callable[..., Promotion],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise MlflowException("the server went away")

    for before in (None, 1):
        version = registered(champion=before)
        with monkeypatch.context() as patch:
            patch.setattr(MlflowClient, "set_registered_model_alias", broken)
            with pytest.raises(TrackingError, match="the server went away"):
                promoted(version)
        assert aliases(client, name).get("champion") == before
        assert len(reconcile(stores.tracking_uri, name=name)) == 1
    assert aliases(client, name) == {"champion": 2, "previous": 1}


def test_a_deleted_alias_is_restored_and_a_deleted_version_is_not(
    stores: EmbeddedServers,
    client: MlflowClient,
    name: str,
    registered: Register,
    promoted: Callable[..., Promotion],
) -> None:
    registered()
    promoted(1)
    registered(champion=1)
    promoted(2)
    client.delete_registered_model_alias(name, "champion")
    reconcile(stores.tracking_uri, name=name)
    assert aliases(client, name) == {"champion": 2, "previous": 1}
    client.delete_model_version(name, "2")
    reconcile(stores.tracking_uri, name=name)
    assert aliases(client, name) == {"champion": 1}


def test_a_tag_requests_promotion_and_gets_the_answer(
    stores: EmbeddedServers, client: MlflowClient, name: str, registered: Register
) -> None:
    registered()
    registered()
    for version in ("1", "2"):
        client.set_model_version_tag(name, version, "advgrpo.promote", "true")
    output = reconcile(stores.tracking_uri)
    stale = (
        "it was compared with none, but the champion is now version 1: evaluate and register it "
        "again"
    )
    assert [line for line in output if f"/{name}/" in line] == [
        f"models:/{name}/1: promotion granted: all gates passed",
        f"models:/{name}/2: promotion refused: {stale}",
    ]
    tags = [client.get_model_version(name, v).tags["advgrpo.promote"] for v in ("1", "2")]
    assert tags == ["granted", "refused"]
    assert reconcile(stores.tracking_uri, name=name) == []


def test_the_commands_promote_and_roll_back(
    client: MlflowClient, name: str, registered: Register
) -> None:
    registered()
    assert run(app, ["registry", "promote", name]).stdout == f"models:/{name}/1 is champion\n"
    registered(champion=1)
    run(app, ["registry", "promote", name, "2", "--by", "ann"])
    assert "(ann, " in decision(client, name, 2)
    output = run(app, ["registry", "rollback", name, "--reason", "it draws noise"])
    assert output.stdout == f"models:/{name}/1 is champion again\n"
    client.set_registered_model_alias(name, "champion", "2")
    output = run(app, ["registry", "reconcile", name])
    assert "refused: it was rolled back: it draws noise; the alias champion was" in output.output
    assert f"{name} version 1 (champion): gates passed" in run(app, ["registry", "list"]).output


@pytest.mark.usefixtures("stores")
def test_the_receiver_serves_until_sigterm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADVGRPO_WEBHOOK_SECRET", "shared")
    command = [sys.executable, "-m", "advgrpo.cli.main", "registry", "serve", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as served:
        assert served.stdout is not None
        url = served.stdout.readline().split()[-1]
        with urllib.request.urlopen(url.replace("/webhook", "/healthz"), timeout=10) as answer:
            assert answer.read() == b"ok\n"
        served.send_signal(signal.SIGTERM)
        assert served.wait(timeout=60) == 0


def test_each_champion_is_announced_once_and_a_failure_is_retried(
    stores: EmbeddedServers,
    client: MlflowClient,
    name: str,
    registered: Register,
    promoted: Callable[..., Promotion],
) -> None:
    announced: list[int] = []

    def announce(promotion: Promotion) -> str:
        announced.append(promotion.version)
        if len(announced) == 1:
            raise ClusterUnavailableError("the API server is unavailable")
        return "run 7"

    registered()
    promoted(1, announce=announce)
    assert aliases(client, name) == {"champion": 1}
    for _ in range(2):
        reconcile(stores.tracking_uri, name=name, announce=announce)
    assert announced == [1, 1]
    assert client.get_model_version(name, "1").tags["advgrpo.announced"] == "run 7"


def test_models_of_other_programs_are_not_changed(
    stores: EmbeddedServers, client: MlflowClient
) -> None:
    client.create_registered_model("other program")
    client.set_registered_model_tag("other program", "team", "x")
    assert all("other program" not in output for output in reconcile(stores.tracking_uri))
    with pytest.raises(PromotionError, match="does not hold adapters of advgrpo"):
        promote("other program", "1", tracking_uri=stores.tracking_uri, by="ann")
    with pytest.raises(PromotionError, match="the registered model missing does not exist"):
        promote("missing", "1", tracking_uri=stores.tracking_uri, by="ann")
