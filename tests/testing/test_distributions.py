import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from hatchling.builders.wheel import WheelBuilder

ROOT = Path(__file__).parents[2]
TESTING = ROOT / "advgrpo" / "testing"


def _wheel_names(project: Path, folder: Path, version: str = "standard") -> set[str]:
    (wheel,) = WheelBuilder(str(project)).build(directory=str(folder), versions=[version])
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "unpacked")
        return set(archive.namelist())


def _project(folder: Path) -> dict[str, Any]:
    return tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("main")


@pytest.fixture(scope="module")
def wheel(folder: Path) -> set[str]:
    return _wheel_names(ROOT, folder)


@pytest.fixture(scope="module")
def testing_wheel(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    return _wheel_names(TESTING, tmp_path_factory.mktemp("testing"))


def test_the_wheel_holds_all_of_the_package_but_what_tests_need(wheel: set[str]) -> None:
    files = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "advgrpo").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and TESTING not in path.parents
    }
    compiled = "advgrpo/kfp_client/adversarial_grpo.yaml"
    metadata = {name for name in wheel if PurePosixPath(name).parts[0].endswith(".dist-info")}
    assert wheel - metadata == files | {compiled}


@pytest.mark.parametrize(
    "name",
    [
        "advgrpo/kfp_client/adversarial_grpo.yaml",
        "advgrpo/config/presets/pocket.yaml",
        "advgrpo/evaluation/templates/report.html.jinja",
        "advgrpo/evaluation/templates/report.css",
        "advgrpo/pocket/prompts/train.txt",
        "advgrpo/pocket/weights/pipeline/model_index.json",
        "advgrpo/pocket/weights/pipeline/transformer/diffusion_pytorch_model.safetensors",
    ],
)
def test_the_wheel_holds_data_files(wheel: set[str], name: str) -> None:
    assert name in wheel


@pytest.mark.usefixtures("wheel")
def test_the_wheel_works_without_a_checkout(folder: Path) -> None:
    program = """
from advgrpo.cli.main import app
from advgrpo.kfp_client.compiled import PIPELINE
from advgrpo.storage.fetch import local_file
print(PIPELINE, local_file("package://advgrpo.pocket/weights/pipeline/model_index.json"))
app(["config", "validate"])
"""
    unpacked = str(folder / "unpacked")
    ended = subprocess.run(
        [sys.executable, "-c", program],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": unpacked},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert [path.startswith(unpacked) for path in ended.stdout.split("\n")[0].split()] == [
        True,
        True,
    ]


def test_the_testing_wheel_holds_the_testing_package_alone(testing_wheel: set[str]) -> None:
    modules = {f"advgrpo/testing/{path.name}" for path in TESTING.glob("*.py")}
    assert {name for name in testing_wheel if ".dist-info/" not in name} == modules


def test_the_two_wheels_have_no_file_in_common(wheel: set[str], testing_wheel: set[str]) -> None:
    assert wheel & testing_wheel == set()


def test_the_two_distributions_have_one_version() -> None:
    version = WheelBuilder(str(ROOT)).metadata.version
    assert _project(TESTING)["version"] == version
    assert _project(TESTING)["dependencies"] == [f"advgrpo[train]=={version}"]
