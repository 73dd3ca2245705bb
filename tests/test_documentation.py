"""Examples in the documentation: commands parse, settings and Python code are valid."""

import ast
import re
import shlex
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
import yaml
from typer.testing import CliRunner

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


MARK = re.compile(r" *<!-- (?:needs .+|run by (tests/\S+\.py)) -->")
EXAMPLE = re.compile(
    # A command, a fenced block of Python, or an indented one with a class.
    r"^ *(?:\$ |exec |\w+=\S* )*(?:advgrpo|docker|helm|kfp|kubectl|make|pip|python) "
    r"|^```python|^ *class \w",
    re.MULTILINE,
)
# Without models, servers and minutes.
CHEAP = re.compile(r" *advgrpo (config (show|validate)|prompts import) ")


def _examples() -> Iterator[tuple[str, str, str]]:
    """Blocks with commands or Python code, with their page and the line of text before them."""
    for page in PAGES:
        before, block, fenced = "", "", False
        for line in [*page.read_text(encoding="utf-8").splitlines(), "end"]:
            is_fence = line.lstrip().startswith("```")
            if fenced or is_fence or line.startswith("    ") or (block and not line):
                fenced ^= is_fence
                block += line + "\n"
                if fenced or not is_fence:
                    continue
            if EXAMPLE.search(block) and not block.startswith("```diff"):
                yield page.relative_to(ROOT).as_posix(), before, block
            # A comment may be followed by an empty line.
            before, block = (line or before) if not is_fence else "", ""


def test_each_example_is_run_by_a_test_or_marked_with_what_it_needs() -> None:
    examples = [*_examples()]
    assert len(examples) > 30
    for page, before, text in examples:
        mark = MARK.fullmatch(before)
        commands = [line for line in text.splitlines() if EXAMPLE.match(line)]
        assert mark or all(map(CHEAP.match, commands)), f"{page}: mark this block:\n{text}"
        if mark and mark[1]:
            assert Path(page).name in (ROOT / mark[1]).read_text(encoding="utf-8"), (page, mark[1])


def test_documented_commands_that_need_nothing_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pickscore").mkdir()
    settings = "extends: pocket\ntraining: {rollout: {microbatch_size: 8}}\n"
    for name in ("run.yaml", "my-run.yaml"):
        (tmp_path / name).write_text(settings, encoding="utf-8")
    (tmp_path / "PartiPrompts.tsv").write_text("Prompt\tCategory\na cat\tAnimals\n", "utf-8")
    for name in ("train", "test"):
        (tmp_path / f"pickscore/{name}.txt").write_text(f"a cat\n{name}\n", encoding="utf-8")
    cheap = [
        words for name, words in COMMANDS.items() if CHEAP.match(name.partition(": ")[2] + " ")
    ]
    assert len(cheap) > 4
    for words in cheap:
        result = CliRunner().invoke(app, words[1:])
        assert result.exit_code == 0, (words, result.exception)


def test_the_example_of_an_own_scorer_runs() -> None:
    page = (ROOT / "docs" / "scorers.md").read_text(encoding="utf-8")
    (code,) = re.findall(
        r"( {4}# brightness/rewards\.py\n(?: {4}.*\n|\n)+?)\n {4}evaluation:", page
    )
    namespace: dict[str, Any] = {}
    exec(textwrap.dedent(code), namespace)
    scorer = namespace["Brightness"]("cpu", gain=2.0)
    assert scorer.score(torch.full((1, 3, 2, 2), 0.25), ["a cat"])["mean"].tolist() == [0.5]


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
