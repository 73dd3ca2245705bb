"""The page for those who come from the released code names what there is."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from typer.testing import CliRunner

from advgrpo.cli.main import app
from advgrpo.config import RunConfig, preset_names, resolve
from tests.config.given import given

PAGE = Path(__file__).parents[2] / "docs" / "from-adv-grpo.md"
SECTIONS = "|".join(RunConfig.model_fields)
RELEASED = ("sd35m_dino_released", "sd35m_pickscore_released")


def settings() -> Iterator[tuple[str, Any]]:
    """Each setting of the tables, and its value if they give one."""
    tables, _, _ = PAGE.read_text(encoding="utf-8").partition("## Not available")
    for text in re.findall(r"`([^`\n]+)`", tables):
        match = re.fullmatch(rf"((?:{SECTIONS})(?:\.[a-z_]+)*)(?:\.{{([a-z_, ]+)}})?(: .+)?", text)
        if match:
            key, names, value = match.groups()
            given_value = yaml.safe_load(value[2:]) if value else None
            for name in (names or "").split(","):
                yield f"{key}.{name.strip()}".rstrip("."), given_value


def found(preset: str, key: str) -> Any:  # noqa: ANN401 - any setting
    value: Any = resolve(preset, given(preset)).model_dump(mode="json")
    for part in key.split("."):
        value = value[part] if isinstance(value, dict) and part in value else KeyError
    return value


def test_every_setting_of_the_page_exists() -> None:
    keys = {key for key, _ in settings()}
    assert len(keys) > 40
    for key in keys:
        assert any(found(preset, key) is not KeyError for preset in preset_names()), key


def test_every_value_of_the_page_is_that_of_a_released_preset() -> None:
    valued = [(key, value) for key, value in settings() if value is not None]
    assert len(valued) > 10
    for key, value in valued:
        values = [found(preset, key) for preset in RELEASED]
        if not isinstance(value, dict):
            assert value in values, key
        elif value != {"type": "frozen"}:
            assert any(value.items() <= one.items() for one in values), key


def test_every_preset_and_command_of_the_page_exists() -> None:
    text = PAGE.read_text(encoding="utf-8")
    named = set(re.findall(r"sd35[a-z0-9_]+", text))
    assert named == {name for name in preset_names() if name.startswith("sd35")}
    spelled = r"advgrpo ([a-z]+(?:-[a-z]+)*(?: (?:generate|run|show|validate))?)"
    commands = set(re.findall(spelled, text))
    assert {"pipeline run", "plan", "reference-images validate", "generate"} <= commands
    for command in commands:
        assert CliRunner().invoke(app, [*command.split(), "--help"]).exit_code == 0, command
