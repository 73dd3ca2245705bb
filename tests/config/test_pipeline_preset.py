from pathlib import Path

import pytest

from advgrpo.config import preset_names, preset_title, resolve
from advgrpo.config.pipeline_preset import CUSTOM, join_preset, preset_choices, split_preset
from advgrpo.errors import ConfigError


@pytest.mark.parametrize("preset", preset_names())
def test_a_packaged_preset_is_a_choice(preset: str) -> None:
    assert split_preset(preset) == (preset, "")
    assert join_preset(preset, " \n") == preset
    assert preset in preset_choices()


def test_a_file_is_sent_as_settings_of_its_own(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("extends: pocket\nseed: 3\n")
    choice, settings = split_preset(str(file))
    assert choice == CUSTOM
    joined = join_preset(choice, settings)
    assert resolve(joined) == resolve("pocket", ["seed=3"])
    assert preset_title(joined) == "mine.yaml"


@pytest.mark.parametrize("settings", ["seed: 3", "extends: pocket\nseed: 3\n", "# Mine.\nseed: 3"])
def test_settings_extend_the_chosen_preset(settings: str) -> None:
    joined = join_preset("pocket", settings)
    assert resolve(joined) == resolve("pocket", ["seed=3"])
    assert preset_title(joined) == "pocket with settings_yaml"


def test_custom_settings_of_one_line_are_a_text() -> None:
    assert resolve(join_preset(CUSTOM, "{extends: pocket, seed: 3}")).seed == 3


@pytest.mark.parametrize(
    ("preset", "settings", "message"),
    [
        (CUSTOM, "", "settings_yaml is empty"),
        ("sd35m_ocr", "extends: pocket", "extends pocket, but preset=sd35m_ocr"),
        ("pocket", "seed: [", "is not valid YAML"),
        ("pocket", "seeed: 3", "did you mean seed"),
    ],
)
def test_settings_that_do_not_fit_are_refused(preset: str, settings: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        resolve(join_preset(preset, settings))
