"""Every package that a command may lack is named with the extra that installs it."""

import ast
import sys
from pathlib import Path

import pytest

import advgrpo
from advgrpo.cli import main as command
from advgrpo.errors import ConfigError

ALWAYS = {
    *("annotated_types", "boto3", "botocore", "mypy_boto3_s3", "pydantic", "pydantic_core"),
    *("rich", "s3transfer", "typer", "urllib3", "yaml"),
}
"""Dependencies without extras, and what they install."""

WITH_AN_ERROR_OF_ITS_OWN = {"rapidocr", "tensorboard", "torchao", "wandb"}


def imported() -> set[str]:
    root = Path(advgrpo.__file__).parent
    names: set[str] = set()
    for path in root.rglob("*.py"):
        # A distribution of its own.
        if path.is_relative_to(root / "testing"):
            continue
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                names.add(node.module)
    return {name.partition(".")[0] for name in names} - sys.stdlib_module_names - {"advgrpo"}


def test_every_imported_package_has_an_extra() -> None:
    assert imported() - ALWAYS - WITH_AN_ERROR_OF_ITS_OWN == set(command._EXTRAS)


def test_a_missing_package_is_an_error_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def lacks_requests() -> None:
        raise ModuleNotFoundError("No module named 'requests'", name="requests")

    monkeypatch.setattr(command, "app", lacks_requests)
    with pytest.raises(ConfigError, match="needs the package requests") as caught:
        command._run()
    assert caught.value.repair == "pip install 'advgrpo[demo]'"
