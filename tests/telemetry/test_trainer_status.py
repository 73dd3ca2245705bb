import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from advgrpo.runtime.heartbeat import heartbeat
from advgrpo.telemetry.progress import Progress
from advgrpo.telemetry.trainer_status import report_trainer_status, trainer_status
from tests.certificates import self_signed

PROGRESS: dict[str, Any] = {
    "done": 3,
    "total": 8,
    "seconds_left": 61.5,
    "metrics": {"reward": 0.123456789, "loss": float("nan"), "x" * 65: 1.0},
    "at": "2026-11-28T12:00:00.000+00:00",
}


def test_the_status_has_the_fields_of_the_schema() -> None:
    assert trainer_status(PROGRESS) == {
        "lastUpdatedTime": "2026-11-28T12:00:00.000+00:00",
        "progressPercentage": 37,
        "estimatedRemainingSeconds": 61,
        "metrics": [{"name": "reward", "value": "0.123457"}],
    }
    unknown = trainer_status({**PROGRESS, "total": 0, "seconds_left": None})
    # At its end the job is not done.
    preparing = trainer_status({**PROGRESS, "phase": "prompt embeddings"})
    assert unknown.keys() == preparing.keys() == {"lastUpdatedTime", "metrics"}


def test_a_heartbeat_reports_progress_to_trainer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[tuple[str, str | None, dict[str, Any]]] = []

    class Trainer(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            sent.append((self.path, self.headers["Authorization"], json.loads(body)))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Log nothing."""

    certificate, context = self_signed(tmp_path)
    (tmp_path / "token").write_text("secret\n")
    with HTTPServer(("127.0.0.1", 0), Trainer) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"https://127.0.0.1:{server.server_address[1]}/status"
        monkeypatch.setenv("KUBEFLOW_TRAINER_SERVER_URL", url)
        monkeypatch.setenv("KUBEFLOW_TRAINER_SERVER_CA_CERT", str(certificate))
        monkeypatch.setenv("KUBEFLOW_TRAINER_SERVER_TOKEN", str(tmp_path / "token"))
        with heartbeat("train", str(tmp_path / "workspace"), ""):
            Progress("training", 4, "updates").advance(3, {"reward": 0.5})
        server.shutdown()
    path, token, body = sent[-1]
    assert (path, token) == ("/status", "Bearer secret")
    assert body["trainerStatus"]["progressPercentage"] == 75
    assert body["trainerStatus"]["metrics"] == [{"name": "reward", "value": "0.5"}]
    # The server is gone now, which is not an error of the task.
    report_trainer_status(PROGRESS)
