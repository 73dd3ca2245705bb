from typing import Any

import pytest
import yaml

from advgrpo.config import resolve
from advgrpo.config.yaml_text import dump_yaml, load_yaml
from advgrpo.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("10", 10),
        ("-3", -3),
        ("0", 0),
        ("0x10", 16),
        ("1_000_000", 1_000_000),
        ("1e3", 1000),
        ("1.5", 1.5),
        (".5", 0.5),
        ("1e-4", 1e-4),
        ("1.0e-4", 1e-4),
        ("-.inf", float("-inf")),
        ("true", True),
        ("null", None),
        ("None", None),
        ("'None'", "None"),
        ("", None),
        ("[1, {a: 1e-4}]", [1, {"a": 1e-4}]),
        ("!!str 10", "10"),
        ("'1e-4'", "1e-4"),
    ],
)
def test_values_have_the_types_of_json(text: str, value: object) -> None:
    read = load_yaml(text)
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize(
    "text",
    # In YAML 1.1: octal, sexagesimal and binary numbers, truth values, dates.
    [
        "010",
        "-07",
        "0o10",
        "08",
        "12:30:45",
        "1:30.5",
        "0b11",
        "1_0",
        "1__000",
        "00.5",
        "yes",
        "No",
        "on",
        "OFF",
        "y",
        "2024-01-01",
        "2024-01-01 10:00:00",
        "=",
        "nan",
        "\uff11\uff12",
    ],
)
def test_values_of_another_meaning_in_other_versions_of_yaml_stay_texts(text: str) -> None:
    assert load_yaml(text) == text


@pytest.mark.parametrize("text", ["!!binary aGk=", "!!set {a}", "!!timestamp 2024-01-01", "!x y"])
def test_values_that_json_lacks_are_refused(text: str) -> None:
    with pytest.raises(yaml.YAMLError, match="could not determine a constructor"):
        load_yaml(text)


@pytest.mark.parametrize("value", ["010", "1e4", "1e-4", "yes", "12:30", "2024-01-01", "None", "é"])
def test_a_text_stays_a_text_when_it_is_written(value: str) -> None:
    written = dump_yaml({"a": value})
    assert load_yaml(written) == {"a": value}
    assert yaml.safe_load(written) == {"a": value}


@pytest.mark.parametrize(
    ("text", "places"),
    [
        ("a: 1\nb: 2\na: 3\n", "lines 1 and 3"),
        ("a:\n  b: 1\n  'b': 2\n", "lines 2 and 3"),
        ("{a: {b: 1, b: 2}}", "line 1"),
        ("- {a: 1,\n   a: 2}", "lines 1 and 2"),
    ],
)
def test_a_repeated_key_is_refused_with_its_lines(text: str, places: str) -> None:
    with pytest.raises(yaml.YAMLError, match=f"the key '[ab]' occurs twice, in {places}"):
        load_yaml(text)


@pytest.mark.parametrize("value", ["010", "12:30:45", "true", "yes", "1.0", "'7'", "1_0", "null"])
@pytest.mark.parametrize("key", ["seed", "training.updates"])
def test_what_is_not_plainly_an_integer_is_refused(key: str, value: str) -> None:
    with pytest.raises(ConfigError, match=rf"{key}=.*valid integer; write digits such as 10"):
        resolve("pocket", [f"{key}={value}"])
    nested = "".join(f"{'  ' * n}{part}:\n" for n, part in enumerate(key.split(".")))
    with pytest.raises(ConfigError, match=rf"{key}=.*valid integer"):
        resolve(f"extends: pocket\n{nested.rstrip()} {value}\n")


@pytest.mark.parametrize("value", ["010.5", "1:30", "true", "off", "'1e-4'", "10%"])
def test_what_is_not_plainly_a_number_is_refused(value: str) -> None:
    with pytest.raises(ConfigError, match=r"clip_range=.*valid number; write a number such as"):
        resolve("pocket", [f"training.algorithm.clip_range={value}"])


@pytest.mark.parametrize("value", ["yes", "1", "on"])
def test_a_truth_value_is_true_or_false(value: str) -> None:
    with pytest.raises(ConfigError, match=r"shared_prefix=.*; write true or false"):
        resolve("pocket", [f"training.algorithm.shared_prefix={value}"])


@pytest.mark.parametrize("value", ["no", "2024-01-01", "12:30", "1e4x", '"1e4"', '"010"', "010"])
def test_a_text_setting_keeps_what_was_written(value: str) -> None:
    config = resolve("pocket", [f"promotion.base_model_licence={value}"])
    assert config.promotion.base_model_licence == value.strip('"')
    assert resolve(config.to_yaml()) == config


def test_a_number_for_a_text_setting_is_refused_with_quotes_as_the_repair() -> None:
    with pytest.raises(ConfigError, match=r"licence=1\.1: .*write it in quotes"):
        resolve("pocket", ["promotion.base_model_licence=1.10"])


def test_a_repeated_key_in_the_value_of_an_override_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"--set .*the key 'rank' occurs twice, in line 1"):
        resolve("pocket", ["policy.adapter={rank: 4, rank: 8, alpha: 8, target_modules: [x]}"])


def test_a_text_is_not_cut_at_what_looks_like_a_comment() -> None:
    with pytest.raises(ConfigError, match="ends before '#', which begins a comment"):
        resolve("pocket", ["promotion.base_model_licence=a #b"])
    quoted = resolve("pocket", ["promotion.base_model_licence='a #b'"])
    assert quoted.promotion.base_model_licence == "a #b"
    assert resolve("pocket", ["promotion.base_model_licence=a#b"])
    assert resolve("pocket", ["seed=3 # for the second run"]).seed == 3


def test_an_override_that_is_not_a_text_is_refused() -> None:
    overrides: Any = [{"seed": 1}]
    with pytest.raises(ConfigError, match=r"overrides: {'seed': 1} is not a text"):
        resolve("pocket", overrides)
