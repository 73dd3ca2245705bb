import subprocess
import sys
from pathlib import Path

import yaml

from advgrpo.config import preset_names
from advgrpo.local_pipeline import PIPELINE

ROOT = Path(__file__).parents[2]


def _without_version(text: str) -> dict[str, object]:
    specification = yaml.safe_load(text)
    del specification["sdkVersion"]
    return dict(specification)


def test_it_compiles_to_the_yaml_that_is_checked_in(tmp_path: Path) -> None:
    compiled = tmp_path / "pipeline.yaml"
    subprocess.run(
        [sys.executable, "-m", "pipelines.adversarial_grpo", str(compiled)],
        cwd=ROOT,
        env={"PATH": ""},
        check=True,
    )
    said = "run `make pipeline`"
    assert _without_version(compiled.read_text()) == _without_version(PIPELINE.read_text()), said


def test_every_parameter_is_described() -> None:
    inputs = yaml.safe_load(PIPELINE.read_text())["root"]["inputDefinitions"]["parameters"]
    assert [name for name, entry in inputs.items() if not entry.get("description")] == []


def test_the_default_preset_exists() -> None:
    inputs = yaml.safe_load(PIPELINE.read_text())["root"]["inputDefinitions"]["parameters"]
    assert inputs["preset"]["defaultValue"] in preset_names()


def test_no_task_installs_packages() -> None:
    assert "pip install" not in PIPELINE.read_text()


def test_all_tasks_run_in_one_image() -> None:
    executors = yaml.safe_load(PIPELINE.read_text())["deploymentSpec"]["executors"]
    assert len({executor["container"]["image"] for executor in executors.values()}) == 1
