from pathlib import Path

import pytest

from advgrpo.config import resolve
from advgrpo.config.preset_files import read_preset
from advgrpo.errors import ConfigError


def _write(folder: Path, **files: str) -> str:
    """Write YAML files and return the path of the first one."""
    for name, text in files.items():
        (folder / f"{name}.yaml").write_text(text, encoding="utf-8")
    return str(folder / f"{next(iter(files))}.yaml")


def test_a_file_extends_a_packaged_preset(tmp_path: Path) -> None:
    file = _write(tmp_path, mine="extends: pocket\ntraining: {updates: 7}\nseed: 3\n")
    assert resolve(file) == resolve("pocket", ["training.updates=7", "seed=3"])


def test_overrides_are_applied_to_what_was_merged(tmp_path: Path) -> None:
    file = _write(tmp_path, mine="extends: pocket\ntraining: {updates: 7}\n")
    assert resolve(file, ["training.updates=8", "seed=1"]) == resolve(
        "pocket", ["training.updates=8", "seed=1"]
    )


def test_a_chain_ends_in_what_the_nearest_file_sets(tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    _write(tmp_path / "shared", base="extends: pocket\nseed: 1\ntraining: {updates: 1}\n")
    file = _write(
        tmp_path,
        mine="extends: team.yaml\nseed: 3\n",
        team="extends: shared/base.yaml\nseed: 2\n",
    )
    assert resolve(file) == resolve("pocket", ["seed=3", "training.updates=1"])


def test_a_text_extends_a_packaged_preset_but_not_a_file() -> None:
    assert resolve("extends: pocket\nseed: 3\n") == resolve("pocket", ["seed=3"])
    with pytest.raises(ConfigError, match=r"extends=other\.yaml: a preset given as text cannot"):
        resolve("extends: other.yaml\nseed: 3\n")


def test_mappings_are_merged_and_lists_replaced(tmp_path: Path) -> None:
    file = _write(
        tmp_path,
        mine="extends: base.yaml\na: {b: {x: 2}, items: [3]}\nnothing: null\n",
        base="a: {b: {x: 1, y: 1}, items: [1, 2]}\nnothing: {x: 1}\n",
    )
    assert read_preset(file).settings == {
        "a": {"b": {"x": 2, "y": 1}, "items": [3]},
        "nothing": None,
    }


def test_a_mapping_of_another_type_is_replaced_whole(tmp_path: Path) -> None:
    file = _write(
        tmp_path,
        mine="extends: base.yaml\none: {type: b, y: 1}\ntwo: {type: a, y: 1}\nthree: {y: 1}\n",
        base="one: {type: a, x: 1}\ntwo: {type: a, x: 1}\nthree: {type: a, x: 1}\n",
    )
    assert read_preset(file).settings == {
        "one": {"type": "b", "y": 1},
        "two": {"type": "a", "x": 1, "y": 1},
        "three": {"type": "a", "x": 1, "y": 1},
    }


def test_a_circle_is_refused(tmp_path: Path) -> None:
    file = _write(tmp_path, a="extends: b.yaml\n", b="extends: ./a.yaml\n")
    with pytest.raises(ConfigError, match=r"circle: \S+a\.yaml -> \S+b\.yaml -> \S+a\.yaml"):
        resolve(file)


@pytest.mark.parametrize(
    ("parent", "message"),
    [
        ("pokket", r"extends=pokket: is not a preset; did you mean pocket\?"),
        ("missing.yaml", r"missing\.yaml' cannot be read"),
        ("[pocket]", "is not the name of a preset"),
        ("null", "is not the name of a preset"),
    ],
)
def test_a_parent_that_does_not_exist_is_refused(parent: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        resolve(_write(tmp_path, mine=f"extends: {parent}\nseed: 1\n"))


def test_an_unknown_key_is_named_with_its_possible_files(tmp_path: Path) -> None:
    file = _write(
        tmp_path, mine="extends: base.yaml\n", base="extends: pocket\ntraining: {updats: 1}\n"
    )
    with pytest.raises(ConfigError, match=r"did you mean training\.updates") as caught:
        resolve(file)
    assert f"settings of {file} (extends {tmp_path}/base.yaml, pocket)" in str(caught.value)


def test_a_key_that_occurs_twice_is_refused_with_its_file_and_line(tmp_path: Path) -> None:
    file = _write(
        tmp_path,
        mine="extends: base.yaml\nseed: 1\n",
        base="training:\n  updates: 1\n  updates: 2\n",
    )
    with pytest.raises(ConfigError, match=r"(?s)base\.yaml.*'updates' occurs twice.*line 3"):
        resolve(file)


def test_a_key_may_occur_again_over_a_merge_key(tmp_path: Path) -> None:
    file = _write(tmp_path, mine="a: &a {x: 1, y: 1}\nb: {<<: *a, x: 2}\nc: {<<: *a}\n")
    assert read_preset(file).settings["b"] == {"x": 2, "y": 1}
