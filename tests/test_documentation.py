"""Examples in the documentation: commands parse, settings and Python code are valid."""

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
import yaml

from advgrpo.cli.main import app

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)


def _blocks(wanted: str) -> Iterator[tuple[str, str]]:
    for page in PAGES:
        for kind, text in BLOCK.findall(page.read_text(encoding="utf-8")):
            if kind == wanted:
                yield page.relative_to(ROOT).as_posix(), text


def _commands() -> Iterator[tuple[str, list[str]]]:
    """Commands of fenced and indented blocks, with their page."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        lines = [
            line
            for kind, body in BLOCK.findall(text)
            if kind in {"", "bash"}
            for line in body.split("\n")
        ]
        lines += re.findall(r"^ {4,}.*", BLOCK.sub("", text), re.MULTILINE)
        for start, line in enumerate(lines):
            if re.match(r" *(exec )?advgrpo ", line):
                yield f"{page.name}: {line.strip()}", _words(lines[start:])


def _words(lines: list[str]) -> list[str]:
    """Split the command that the first line begins."""
    command = ""
    for line in lines:
        command += line
        if command.endswith("\\"):
            command = command[:-1]
            continue
        try:
            words = shlex.split(command.strip().removeprefix("exec "), comments=True)
        except ValueError:
            # A quoted text goes on in the next line.
            continue
        return words
    raise AssertionError(command)


COMMANDS = dict(_commands())


@pytest.mark.parametrize("words", COMMANDS.values(), ids=COMMANDS)
def test_a_documented_command_exists_with_its_options(words: list[str]) -> None:
    command = typer.main.get_command(app)
    # "..." stands for options that a reader adds.
    rest, is_complete = [word for word in words[1:] if word != "..."], "..." not in words
    while commands := getattr(command, "commands", None):
        if rest in ([], ["--help"]):
            return
        command, rest = commands[rest[0]], rest[1:]
    command.make_context(words[0], rest, resilient_parsing=not is_complete)


def test_commands_are_found() -> None:
    assert len(COMMANDS) > 40


@pytest.mark.parametrize(("page", "text"), [*_blocks("python")])
def test_documented_python_is_valid(page: str, text: str) -> None:
    ast.parse(text, filename=page)


@pytest.mark.parametrize(("page", "text"), [*_blocks("yaml")])
def test_documented_yaml_is_valid(page: str, text: str) -> None:
    assert yaml.safe_load(text), page


def test_the_texts_of_the_troubleshooting_page_are_those_of_errors() -> None:
    page = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([^`]+)`", page, re.MULTILINE)
    code = "\n".join(path.read_text("utf-8") for path in (ROOT / "advgrpo").rglob("*.py"))
    # Texts are often split over lines.
    code = re.sub(r'"\s*\n\s*f?"', "", code)
    assert len(rows) > 10
    for row in rows:
        # Variables are written in capitals, and are constants of the code.
        parts = [part.strip() for part in re.split(r"\.\.\.|MLFLOW_TRACKING_URI", row)]
        assert all(part in code for part in parts), row
