"""The structure of the package: sizes, import chains and wording that every change keeps."""

import ast
import re
import subprocess
from collections import Counter
from functools import lru_cache
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).parents[1]
MOST_LINES = 300
MOST_MODULES = 24
LONGEST_CHAIN = 16
QUESTION = re.compile(r"(What|How|Who|Where|By|Which|Whose|Whether|Why)\b")
UNIDIOMATIC = re.compile(
    r"\b(told|nobody|whoever|anew)\b|\b(said|refused) in words\b"
    r"|(?<!there )\bis no (?!longer)[a-z]",
    re.IGNORECASE,
)
"""Words that standard technical English replaces; CONTRIBUTING.md, "Wording"."""


def tracked(*patterns: str) -> list[Path]:
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z", "--"]
    listed = subprocess.run(
        [*command, *patterns], cwd=ROOT, check=True, capture_output=True, text=True
    )
    paths = [ROOT / name for name in listed.stdout.split("\0") if name]
    return [path for path in paths if path.is_file()]


MODULES = tracked("advgrpo/*.py")


def test_no_module_is_longer_than_a_reader_can_follow() -> None:
    lines = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in MODULES}
    assert {str(path): n for path, n in lines.items() if n > MOST_LINES} == {}


def test_no_folder_has_too_many_modules() -> None:
    folders = Counter(path.parent for path in MODULES if path.name != "__init__.py")
    assert {str(path): n for path, n in folders.items() if n > MOST_MODULES} == {}


@lru_cache
def imports() -> dict[str, set[str]]:
    graph = grimp.build_graph("advgrpo", cache_dir=None)
    return {name: graph.find_modules_directly_imported_by(name) for name in graph.modules}


def test_import_chains_are_short_and_have_no_circle() -> None:
    depths: dict[str, int] = {}

    def depth(module: str, path: tuple[str, ...]) -> int:
        assert module not in path, " > ".join((*path, module))
        if module not in depths:
            depths[module] = 1 + max(
                (depth(name, (*path, module)) for name in imports()[module]), default=0
            )
        return depths[module]

    chains = {module: depth(module, ()) for module in imports()}
    assert {module: n for module, n in chains.items() if n > LONGEST_CHAIN} == {}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_says_what_it_is(path: Path) -> None:
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    if path.name == "__init__.py" and docstring is None:
        return
    assert docstring
    assert not QUESTION.match(docstring)


def test_the_tree_is_written_in_standard_terms() -> None:
    files = tracked("*.py", "*.md", "*.yaml", "*.tpl", "*.txt", "*.jinja", "*.toml", "Makefile")
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in files
        if path != Path(__file__) and "results" not in path.parts
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if UNIDIOMATIC.search(line)
    ]
    assert found == []
