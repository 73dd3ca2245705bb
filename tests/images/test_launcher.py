import json
import re
import subprocess
import sys
import tomllib
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from packaging.requirements import Requirement

from advgrpo.demo.servers import EmbeddedServers

ROOT = Path(__file__).parents[2]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))[
    "project"
]
LARGE = {"deepspeed", "diffusers", "mlflow", "numpy", "pandas", "pillow", "torch", "transformers"}


def _key(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@cache
def _required(*extras: str) -> set[str]:
    """Return the distributions that advgrpo requires with extras, from installed metadata."""
    asked = PROJECT["dependencies"] + [
        text for extra in extras for text in PROJECT["optional-dependencies"][extra]
    ]
    found: set[str] = set()
    waiting = [Requirement(text) for text in asked]
    seen: set[str] = set()
    while waiting:
        requirement = waiting.pop()
        if str(requirement) in seen:
            continue
        seen.add(str(requirement))
        found.add(_key(requirement.name))
        for text in metadata.requires(requirement.name) or []:
            needed = Requirement(text)
            chosen = ["", *requirement.extras]
            if needed.marker is None or any(needed.marker.evaluate({"extra": e}) for e in chosen):
                waiting.append(needed)
    return found


def test_the_launcher_requires_neither_torch_nor_array_libraries() -> None:
    assert not _required("launcher") & LARGE


def test_the_trainer_requires_all_of_them() -> None:
    assert _required("train") >= LARGE - {"mlflow", "pandas"}


@pytest.mark.parametrize("extras", [["launcher"], ["train", "launcher"]])
def test_everything_that_an_image_installs_is_pinned(extras: list[str]) -> None:
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert not _required(*extras) - {_key(pin.partition("==")[0]) for pin in pins}


def test_the_launcher_runs_the_tasks_with_its_requirements(
    stores: EmbeddedServers, tmp_path: Path
) -> None:
    there = _required("launcher") | {"advgrpo"}
    lacking = [
        module
        for module, names in metadata.packages_distributions().items()
        if not there & {_key(name) for name in names}
    ]
    assert {"torch", "numpy", "PIL", "pandas"} <= set(lacking)
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "tests.images.launcher_program",
            json.dumps(lacking),
            f"s3://advgrpo/images/{tmp_path.name}",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    made = json.loads(done.stdout)
    assert made["location"].startswith(f"s3://advgrpo/images/{tmp_path.name}/jobs/train-")
    assert made["metrics"] == {"updates": 2.0}
    assert made["failure"] == "NonFiniteError"
    assert made["loaded"] == []
    run = MlflowClient(stores.tracking_uri).get_run(made["parent_run_id"])
    assert run.data.params["training.updates"]
    assert run.info.status == "FAILED"
