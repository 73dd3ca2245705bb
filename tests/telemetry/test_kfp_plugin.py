"""Variables of Kubeflow Pipelines' MLflow plugin, next to those of the chart."""

import os
import re

import pytest

from advgrpo.kfp_client.compiled import PIPELINE
from advgrpo.tracking.address import tracking_uri

OWN = {"ADVGRPO_MLFLOW_TRACKING_URI": "http://own", "ADVGRPO_MLFLOW_TRACKING_TOKEN": "own-token"}
ADDRESS, TOKEN, USER = (f"MLFLOW_TRACKING_{name}" for name in ("URI", "TOKEN", "USERNAME"))


def test_no_task_refers_to_a_variable_that_the_plugin_sets() -> None:
    # As Pipelines 2.17 merges both, such a pod has `value` and `valueFrom`, and is refused.
    names = set(re.findall(r"envVar: (\S+)", PIPELINE.read_text(encoding="utf-8")))
    assert "ADVGRPO_MLFLOW_TRACKING_URI" in names
    assert not [name for name in names if name.startswith("MLFLOW_")]


@pytest.mark.parametrize(
    ("plugin", "address", "token"),
    [
        ({}, "http://own", "own-token"),
        ({ADDRESS: "http://own"}, "http://own", "own-token"),
        ({ADDRESS: "http://own", USER: "plugin"}, "http://own", None),
        ({ADDRESS: "http://own", TOKEN: "plugin"}, "http://own", "plugin"),
        # The chart's login is not for another server.
        ({ADDRESS: "http://plugin"}, "http://plugin", None),
    ],
)
def test_the_plugins_server_and_login_take_precedence_over_the_charts(
    plugin: dict[str, str], address: str, token: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (ADDRESS, TOKEN, USER, "MLFLOW_TRACKING_PASSWORD"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    for name, value in (OWN | plugin).items():
        monkeypatch.setenv(name, value)
    assert tracking_uri() == address
    assert os.environ.get(TOKEN) == token
