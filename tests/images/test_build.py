import os
import shutil
import subprocess
from pathlib import Path

import pytest

from advgrpo import __version__
from components.cluster import LAUNCHER, TRAINER

ROOT = Path(__file__).parents[2]
RECORD = '#!/bin/sh\nfor word in "$0" "$@"; do echo "$word"; done >> "$RECORD"\n'


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """A folder with the script's programs but no engine, which is the whole PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("bash", "dirname", "git", "sed"):
        (folder / name).symlink_to(str(shutil.which(name)))
    return folder


def _add_engine(programs: Path, name: str, script: str = RECORD) -> None:
    (programs / name).write_text(script, encoding="utf-8")
    (programs / name).chmod(0o755)


def _build(programs: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["/usr/bin/env", "bash", ROOT / "images" / "build.sh"],
        env={"PATH": str(programs), "RECORD": str(programs / "record"), **variables},
        capture_output=True,
        text=True,
        check=False,
    )


def _recorded(programs: Path) -> list[str]:
    return (programs / "record").read_text(encoding="utf-8").splitlines()


def test_it_builds_the_images_that_the_pipeline_names(programs: Path) -> None:
    _add_engine(programs, "buildah")
    done = _build(programs)
    assert done.returncode == 0, done.stderr
    words = _recorded(programs)
    tags = [words[n + 1] for n, word in enumerate(words) if word == "--tag"]
    assert tags == [LAUNCHER, TRAINER]
    assert words.count(f"VERSION={__version__}") == 2
    assert "PYTHON_IMAGE=" not in "".join(words)


def test_registry_tag_revision_and_base_image_can_be_set(programs: Path) -> None:
    _add_engine(programs, "buildah")
    done = _build(
        programs,
        REGISTRY="registry.example/team/",
        TAG="0.1.0-rc1",
        REVISION="abc",
        PYTHON_IMAGE="mirror.example/python@sha256:0",
        IMAGES="trainer",
        BUILD_OPTIONS="--isolation chroot",
    )
    assert done.returncode == 0, done.stderr
    words = _recorded(programs)
    assert "registry.example/team/advgrpo-trainer-python:0.1.0-rc1" in words
    assert {"REVISION=abc", "PYTHON_IMAGE=mirror.example/python@sha256:0", "chroot"} <= {*words}
    assert words.count("--tag") == 1


def test_images_are_pushed_on_request(programs: Path) -> None:
    _add_engine(programs, "buildah")
    done = _build(programs, REGISTRY="registry.example/team", PUSH="yes")
    assert done.returncode == 0, done.stderr
    words = _recorded(programs)
    pushed = [words[n + 1] for n, word in enumerate(words) if word == "push"]
    names = [LAUNCHER, TRAINER]
    assert pushed == [name.replace("localhost/", "registry.example/team/") for name in names]
    assert "images.registry=registry.example/team" in done.stdout
    assert "push" not in _recorded_of(programs, REGISTRY="registry.example/team")


def _recorded_of(programs: Path, **variables: str) -> list[str]:
    (programs / "record").unlink()
    assert _build(programs, **variables).returncode == 0
    return _recorded(programs)


def test_docker_is_used_if_its_daemon_responds(programs: Path) -> None:
    _add_engine(programs, "docker")
    _add_engine(programs, "buildah")
    assert _build(programs, IMAGES="launcher").returncode == 0
    assert str(programs / "docker") in _recorded(programs)
    assert str(programs / "buildah") not in _recorded(programs)


def test_buildah_is_used_if_no_daemon_responds(programs: Path) -> None:
    _add_engine(programs, "docker", "#!/bin/sh\nexit 1\n")
    _add_engine(programs, "buildah")
    assert _build(programs, IMAGES="launcher").returncode == 0
    assert str(programs / "buildah") in _recorded(programs)


@pytest.mark.parametrize(
    ("docker", "variables", "said"),
    [
        (False, {}, "neither docker nor buildah is installed"),
        (True, {}, "its daemon does not answer"),
        (False, {"ENGINE": "kaniko"}, "ENGINE=kaniko"),
        (False, {"ENGINE": "buildah", "TAG": "latest"}, "TAG=latest"),
        (False, {"ENGINE": "buildah", "PUSH": "yes"}, "PUSH=yes without REGISTRY"),
    ],
)
def test_a_build_that_cannot_work_is_refused_with_the_repair(
    programs: Path, variables: dict[str, str], said: str, *, docker: bool
) -> None:
    if docker:
        _add_engine(programs, "docker", "#!/bin/sh\nexit 1\n")
    done = _build(programs, **variables)
    assert done.returncode == 2
    assert said in done.stderr
    assert "repair: " in done.stderr


def test_an_engine_that_fails_fails_the_build(programs: Path) -> None:
    _add_engine(programs, "buildah", "#!/bin/sh\nexit 125\n")
    done = _build(programs)
    assert done.returncode == 125
    assert "built" not in done.stdout


def test_the_script_is_executable() -> None:
    assert os.access(ROOT / "images" / "build.sh", os.X_OK)
