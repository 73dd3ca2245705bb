import base64
import hashlib
import hmac
import json
import threading
import time
from collections.abc import Callable, Iterator
from http import HTTPStatus
from http.client import HTTPConnection
from pathlib import Path

import pytest
from mlflow import MlflowClient

from advgrpo.demo.servers import EmbeddedServers
from advgrpo.errors import ConfigError
from advgrpo.registry.reconciler import Reconciler
from advgrpo.registry.webhook import MAX_BODY_BYTES, PATH, receiver, subscribe
from advgrpo.registry.webhook_messages import MessageVerifier, RefusedError
from advgrpo.telemetry.prometheus import WEBHOOK
from tests.tracking.world import evidence, register, settings, write_adapter

SECRET = "shared"
MOVED = {
    "entity": "model_version_alias",
    "action": "created",
    "data": {"name": "m", "alias": "champion", "version": "1"},
}


def signed(body: bytes, *, secret: str = SECRET, at: float | None = None, delivery: str = "1"):
    timestamp = str(int(time.time() if at is None else at))
    content = f"{delivery}.{timestamp}.".encode() + body
    digest = hmac.new(secret.encode(), content, hashlib.sha256).digest()
    return {
        "X-MLflow-Delivery-Id": delivery,
        "X-MLflow-Timestamp": timestamp,
        "X-MLflow-Signature": f"v1,{base64.b64encode(digest).decode()}",
    }


Post = Callable[..., tuple[int, str]]


@pytest.fixture
def notified() -> list[str]:
    return []


@pytest.fixture
def post(notified: list[str]) -> Iterator[Post]:
    with receiver("127.0.0.1", 0, secret=SECRET, notify=notified.append) as server:
        port = server.server_address[1]

        def send(
            body: bytes, headers: dict[str, str], *, path: str = PATH, method: str = "POST"
        ) -> tuple[int, str]:
            connection = HTTPConnection("127.0.0.1", port, timeout=5)
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            text = answer.read().decode()
            connection.close()
            return answer.status, text

        yield send


def test_a_message_notifies_and_its_replay_does_not(post: Post, notified: list[str]) -> None:
    body = json.dumps(MOVED).encode()
    headers = signed(body)
    assert post(body, headers) == (HTTPStatus.ACCEPTED, "reconciling m\n")
    assert post(body, headers) == (HTTPStatus.CONFLICT, "delivery 1 is a replay\n")
    assert notified == ["m"]


def test_an_unsigned_old_or_modified_message_is_refused(post: Post, notified: list[str]) -> None:
    body = json.dumps(MOVED).encode()
    now = time.time()
    for headers in (
        {},
        signed(body, secret="guessed"),
        signed(body + b" "),
        {**signed(body), "X-MLflow-Delivery-Id": "2"},
        {**signed(body), "X-MLflow-Timestamp": str(int(now) + 1)},
        {**signed(body), "X-MLflow-Signature": "v1,not base64"},
        {**signed(body), "X-MLflow-Signature": signed(body)["X-MLflow-Signature"][3:]},
    ):
        assert post(body, headers) == (HTTPStatus.UNAUTHORIZED, "the signature is wrong\n")
    for at in (now - 400, now + 400):
        status, text = post(body, signed(body, at=at))
        assert (status, "is more than 300 s from now" in text) == (HTTPStatus.UNAUTHORIZED, True)
    assert notified == []


def test_a_malformed_message_is_refused(post: Post, notified: list[str]) -> None:
    for number, body in enumerate((b"", b"{", b"[]", b'{"entity": "x", "data": {"name": 3}}')):
        assert post(body, signed(body, delivery=str(number)))[0] == HTTPStatus.BAD_REQUEST
    assert post(b"x", {}, path="/")[0] == HTTPStatus.NOT_FOUND
    too_long = {"Content-Length": str(MAX_BODY_BYTES + 1)}
    assert post(b"x", too_long)[0] == HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    assert post(b"x", {"Content-Length": "-1"})[0] == HTTPStatus.LENGTH_REQUIRED
    assert notified == []


def test_a_tag_notifies_only_if_it_requests_promotion(post: Post, notified: list[str]) -> None:
    for key, text in (
        ("advgrpo.decision", "nothing to do\n"),
        ("advgrpo.promote", "reconciling m\n"),
    ):
        data = {"name": "m", "version": "1", "key": key, "value": "true"}
        body = json.dumps({"entity": "model_version_tag", "action": "set", "data": data}).encode()
        assert post(body, signed(body, delivery=key)) == (HTTPStatus.ACCEPTED, text)
    assert notified == ["m"]


def test_messages_are_counted_by_status(post: Post) -> None:
    def counted(status: str) -> float:
        labels = {"status": status}
        return WEBHOOK.get_sample_value("advgrpo_webhook_messages_total", labels) or 0.0

    before = counted("202"), counted("401")
    body = json.dumps(MOVED).encode()
    post(body, signed(body, delivery="counted"))
    post(body, signed(body, secret="another"))
    post(b"", {}, path="/healthz", method="GET")
    assert (counted("202") - before[0], counted("401") - before[1]) == (1, 1)


def test_the_health_check_answers(post: Post) -> None:
    assert post(b"", {}, path="/healthz", method="GET") == (HTTPStatus.OK, "ok\n")
    assert post(b"", {}, path="/", method="GET")[0] == HTTPStatus.NOT_FOUND


def test_old_deliveries_are_forgotten() -> None:
    now = [1000.0]
    verifier = MessageVerifier(SECRET, clock=lambda: now[0])
    verifier.check(signed(b"x", at=now[0]), b"x")
    now[0] += 290
    with pytest.raises(RefusedError, match="is a replay"):
        verifier.check(signed(b"x", at=1000), b"x")
    now[0] += 400
    with pytest.raises(RefusedError, match="from now"):
        verifier.check(signed(b"x", at=1000), b"x")
    verifier.check(signed(b"y", at=now[0]), b"y")


def test_the_receiver_needs_a_secret() -> None:
    with (
        pytest.raises(ConfigError, match="ADVGRPO_WEBHOOK_SECRET"),
        receiver("127.0.0.1", 0, secret="", notify=print),
    ):
        pass


def test_an_unavailable_address_is_named() -> None:
    with (
        pytest.raises(ConfigError, match=r"cannot listen on 203\.0\.113\.1:80"),
        receiver("203.0.113.1", 80, secret=SECRET, notify=print),
    ):
        pass


def test_a_webhook_of_mlflow_leads_to_a_reconciliation(
    stores: EmbeddedServers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As in the chart's pod, which has no S3 key: MLflow proxies artifacts.
    for name in stores.environment():
        if name.startswith("AWS_") or name == "MLFLOW_S3_ENDPOINT_URL":
            monkeypatch.delenv(name)
    client = MlflowClient(stores.tracking_uri)
    run_id = str(client.create_run("0").info.run_id)
    config = settings("notified")
    for version, gain in ((1, 0.2), (2, 0.0)):
        adapter = write_adapter(tmp_path / "adapter", str(version))
        proof = evidence(gain, champion=None if version == 1 else 1)
        register(stores.tracking_uri, config, adapter, run_id, proof)
    reconciler = Reconciler(stores.tracking_uri, every_seconds=600)
    worker = threading.Thread(target=reconciler.run)

    def wait_for_champion(wanted: str) -> None:
        for _ in range(200):
            if client.get_registered_model("notified").aliases.get("champion") == wanted:
                return
            time.sleep(0.1)
        pytest.fail(f"the champion is {client.get_registered_model('notified').aliases}")

    with receiver("127.0.0.1", 0, secret=SECRET, notify=reconciler.notify) as server:
        url = f"http://127.0.0.1:{server.server_address[1]}{PATH}"
        for _ in range(2):
            subscribe(stores.tracking_uri, url, secret=SECRET)
        (webhook,) = client.list_webhooks()
        try:
            # MLflow caches webhooks for a second.
            time.sleep(1.1)
            worker.start()
            client.set_model_version_tag("notified", "1", "advgrpo.promote", "true")
            wait_for_champion("1")
            client.set_registered_model_alias("notified", "champion", "2")
            for _ in range(200):
                if "advgrpo.decision" in client.get_model_version("notified", "2").tags:
                    break
                time.sleep(0.1)
            wait_for_champion("1")
        finally:
            client.delete_webhook(webhook.webhook_id)
            reconciler.stop()
            worker.join()
    decision = client.get_model_version("notified", "2").tags["advgrpo.decision"]
    assert decision.startswith("refused: the gate judge.score at least base failed")
