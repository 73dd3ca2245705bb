"""Commands in the chart's containers and notes are those of the command line."""

import shlex

import pytest
import typer

from advgrpo.cli.main import app
from advgrpo.cluster.roles import DOCTOR_RULES
from advgrpo.registry.promotion_hook import PARAMETERS_VARIABLE, PIPELINE_VARIABLE
from advgrpo.registry.webhook import PATH, SECRET_VARIABLE
from tests.helm.releases import EVERYTHING, MINIMAL, containers, notes, objects, of_kind, release

RUN = {
    name: [*container["command"], *container.get("args", [])]
    for values in (MINIMAL, EVERYTHING)
    for name, container in containers(objects(values))
    if container["command"][0] == "advgrpo"
}
NOTED = {
    line.strip(): shlex.split(line)
    for values in (MINIMAL, EVERYTHING)
    for line in notes(values).splitlines()
    if line.startswith("   advgrpo ")
}


def _parse(words: list[str]) -> None:
    command = typer.main.get_command(app)
    rest = words[1:]
    while commands := getattr(command, "commands", None):
        command, rest = commands[rest[0]], rest[1:]
    command.make_context(words[0], rest)


@pytest.mark.parametrize("words", RUN.values(), ids=RUN)
def test_a_container_runs_an_existing_command(words: list[str]) -> None:
    _parse(words)


@pytest.mark.parametrize("words", NOTED.values(), ids=NOTED)
def test_the_notes_contain_existing_commands(words: list[str]) -> None:
    _parse(words)


def test_commands_are_found() -> None:
    assert len(RUN) == 7
    assert NOTED


def test_helm_test_has_the_permissions_of_the_doctor() -> None:
    role = of_kind(release("minimal"), "Role")["advgrpo-doctor"]
    assert role["rules"] == list(DOCTOR_RULES)


def test_the_notes_register_the_webhook_that_is_served() -> None:
    text = notes(EVERYTHING)
    assert f"svc.cluster.local:8080{PATH}" in text
    (container,) = [c for name, c in containers(objects(EVERYTHING)) if name.endswith(": webhook")]
    variables = {entry["name"] for entry in container["env"]}
    assert {SECRET_VARIABLE, PIPELINE_VARIABLE, PARAMETERS_VARIABLE} <= variables
