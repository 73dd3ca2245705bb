import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from advgrpo.config import preset_names
from advgrpo.errors import ConfigError
from advgrpo.kfp_client.compiled import PIPELINE
from advgrpo.kfp_client.local import run_pipeline
from components.cluster import LAUNCHER, TRAINER

ROOT = Path(__file__).parents[2]


def _documents(path: Path) -> list[dict[str, Any]]:
    """The pipeline, and what it asks of the platform; without the version of kfp."""
    pipeline, platform = yaml.load_all(path.read_text(encoding="utf-8"), yaml.CSafeLoader)
    del pipeline["sdkVersion"]
    return [pipeline, platform]


def _inputs() -> dict[str, Any]:
    inputs: dict[str, Any] = _documents(PIPELINE)[0]["root"]["inputDefinitions"]["parameters"]
    return inputs


def test_it_compiles_to_the_checked_in_yaml(tmp_path: Path) -> None:
    compiled = tmp_path / "pipeline.yaml"
    subprocess.run(
        [sys.executable, "-m", "pipelines.adversarial_grpo", str(compiled)],
        cwd=ROOT,
        env={"PATH": ""},
        check=True,
    )
    assert _documents(compiled) == _documents(PIPELINE), "run `make pipeline`"


def test_every_parameter_is_described() -> None:
    assert [name for name, entry in _inputs().items() if not entry.get("description")] == []


def test_the_default_preset_exists() -> None:
    assert _inputs()["preset"]["defaultValue"] in preset_names()


def test_no_task_installs_packages() -> None:
    assert "pip install" not in PIPELINE.read_text()


def test_tasks_start_jobs_from_the_small_image_except_the_one_that_needs_all_of_advgrpo() -> None:
    executors = _documents(PIPELINE)[0]["deploymentSpec"]["executors"]
    images = {name: executor["container"]["image"] for name, executor in executors.items()}
    assert images.pop("exec-register") == TRAINER
    assert set(images.values()) == {LAUNCHER}


def test_a_run_that_would_fail_is_refused_by_its_first_task(tmp_path: Path) -> None:
    arguments: dict[str, str | int | list[str]] = {
        "workspace": str(tmp_path / "workspace"),
        "preset": "pocket",
        "processes": 3,
    }
    with pytest.raises(ConfigError, match="3 training processes"):
        run_pipeline(PIPELINE, arguments, artifacts=tmp_path / "artifacts")
    assert not (tmp_path / "workspace").exists()
