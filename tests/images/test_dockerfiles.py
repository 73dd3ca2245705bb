import importlib.util
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from advgrpo import __version__
from advgrpo.cluster.settings import ClusterSettings
from tests.images.dockerfile import (
    Instruction,
    base_images,
    context_copies,
    debian_packages,
    instructions,
    may_move,
    stages,
    texts,
)

ROOT = Path(__file__).parents[2]
FILES = {name: ROOT / "images" / name / "Dockerfile" for name in ("launcher", "trainer")}
PYPROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
DEBIAN_PACKAGES = {
    "launcher": set(),
    "trainer": {"gcc", "libc6-dev", "ibverbs-providers", "libibverbs1"},
}
"""Packages that a final stage may install."""


@pytest.fixture(params=sorted(FILES))
def image(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def found(image: str) -> list[Instruction]:
    return instructions(FILES[image].read_text(encoding="utf-8"))


@pytest.fixture
def final(found: list[Instruction]) -> list[Instruction]:
    return stages(found)[-1]


def test_the_base_image_has_a_full_version(
    found: list[Instruction],
) -> None:
    assert base_images(found)
    assert not [name for name in base_images(found) if may_move(name)]


def test_both_images_have_the_same_base() -> None:
    bases = [base_images(instructions(f.read_text(encoding="utf-8"))) for f in FILES.values()]
    assert bases[0] == bases[1]


@pytest.mark.parametrize(
    ("name", "moves"),
    [
        ("python", True),
        ("python:latest", True),
        ("python:3.11-slim", True),
        ("registry.example:5000/python", True),
        ("registry.example:5000/python:3.11.14-slim-bookworm", False),
        ("library/python:3.11.14", False),
        (f"python:3.11-slim@sha256:{'0' * 64}", False),
        ("python@sha256:0", True),
    ],
)
def test_a_name_moves_without_a_digest_or_a_full_version(name: str, *, moves: bool) -> None:
    assert may_move(name) == moves


def test_it_runs_as_the_user_of_the_jobs(final: list[Instruction]) -> None:
    user = ClusterSettings(image="x").run_as_user
    assert texts(final, "USER") == [f"{user}:{user}"]
    assert f"--uid {user} " in " ".join(texts(final, "RUN"))


def test_it_only_writes_below_one_folder(final: list[Instruction]) -> None:
    (variables,) = texts(final, "ENV")
    # A user that the platform assigns has no name of its own.
    assert {"HOME=/tmp", "LOGNAME=advgrpo", "ADVGRPO_CACHE=/tmp/cache"} <= set(variables.split())
    assert texts(final, "WORKDIR") == ["/tmp"]


def test_the_build_ends_with_a_smoke_test_as_that_user(final: list[Instruction]) -> None:
    names = [one.name for one in final]
    after = final[names.index("USER") :]
    assert any("advgrpo --version" in text for text in texts(after, "RUN"))


def test_the_final_stage_installs_named_packages(image: str, final: list[Instruction]) -> None:
    assert debian_packages(final) == DEBIAN_PACKAGES[image]
    assert not [text for text in texts(final, "RUN") if "pip" in text.split()]
    copied = [text.split()[0] for text in texts(final, "COPY")]
    assert copied == ["--from=dependencies", "--from=library"]


def test_the_smoke_test_compiles_as_triton_does() -> None:
    final = stages(instructions(FILES["trainer"].read_text(encoding="utf-8")))[-1]
    assert "'#include <Python.h>' | gcc " in texts(final, "RUN")[-1]


def test_packages_of_a_final_stage_are_found_in_any_spelling() -> None:
    text = "FROM x:1.2.3\nRUN a && apt-get update && \\\n    apt-get install -y gcc g++ \\\n && b"
    assert debian_packages(instructions(text)) == {"gcc", "g++"}


def test_pins_constrain_every_call_of_pip(found: list[Instruction]) -> None:
    bound = False
    for one in found:
        bound |= one.name == "ENV" and "PIP_CONSTRAINT=/build/constraints.txt" in one.text.split()
        assert bound or one.name != "RUN" or "pip" not in one.text or "-m venv" in one.text
    assert "constraints.txt" in context_copies(stages(found)[0])
    assert texts(found, "WORKDIR")[0] == "/build"


@pytest.mark.parametrize(
    ("image", "extras"), [("launcher", ["launcher"]), ("trainer", ["train", "launcher"])]
)
def test_an_image_installs_its_extras(image: str, extras: list[str]) -> None:
    named = [
        extra
        for extra in PYPROJECT["project"]["optional-dependencies"]
        if f'["{extra}"]' in FILES[image].read_text(encoding="utf-8")
    ]
    assert sorted(named) == sorted(extras)


def test_the_image_of_the_charts_mlflow_server_contains_one() -> None:
    values = yaml.safe_load((ROOT / "helm/advgrpo/values.yaml").read_text(encoding="utf-8"))
    repository = values["images"]["mlflow"]["repository"]
    (text,) = (
        f.read_text("utf-8") for n, f in FILES.items() if repository == f"advgrpo-{n}-python"
    )
    assert '"mlflow"' in text, "installed"
    assert "import kfp.dsl.executor_main, mlflow.server;" in text, "in the smoke test"


def test_labels_name_version_revision_and_licence(final: list[Instruction]) -> None:
    assert texts(final, "ARG") == [f"VERSION={__version__}", "REVISION=unknown"]
    (labels,) = texts(final, "LABEL")
    for label in (
        'version="${VERSION}"',
        'revision="${REVISION}"',
        f'licenses="{PYPROJECT["project"]["license"]}"',
    ):
        assert f"org.opencontainers.image.{label}" in labels


def test_copied_paths_exist_and_are_not_ignored(found: list[Instruction]) -> None:
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    rules = [line for line in lines if not line.startswith("#")]
    assert rules[0] == "*"
    let_in = {rule[1:] for rule in rules if rule.startswith("!")}
    copied = {path for stage in stages(found) for path in context_copies(stage)}
    assert copied == let_in
    assert not [path for path in copied if not (ROOT / path).exists()]


def test_docker_and_buildah_both_read_it(image: str, found: list[Instruction]) -> None:
    assert "# syntax=" not in FILES[image].read_text(encoding="utf-8")
    assert {one.name for one in found} <= {
        "ARG", "CMD", "COPY", "ENTRYPOINT", "ENV", "FROM", "LABEL", "RUN", "USER", "WORKDIR",
    }  # fmt: skip
    for one in found:
        flags = [word for word in one.text.split() if word.startswith("--")]
        if one.name == "COPY":
            assert all(flag.startswith("--from=") for flag in flags)
        if one.name == "RUN":
            assert not one.text.startswith("--")
            assert "<<" not in one.text


def test_it_only_names_modules_that_exist(image: str) -> None:
    named = set(re.findall(r"\badvgrpo(?:\.\w+)+", FILES[image].read_text(encoding="utf-8")))
    assert named
    assert not [module for module in named if importlib.util.find_spec(module) is None]
