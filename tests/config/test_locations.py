import re

import pytest

from advgrpo.config import Weights, locations, preset_names, pretrained_weights, resolve
from advgrpo.config.locations import with_weights
from advgrpo.errors import ConfigError
from tests.config.given import given


def test_locations_are_named_by_the_key_that_sets_them() -> None:
    config = resolve("pocket", ["reference_images.existing=s3://b/set"])
    found = locations(config)
    for key, location in found.items():
        changed = resolve("pocket", ["reference_images.existing=s3://b/set", f"{key}={location}"])
        assert changed == config
    assert found["reference_images.existing"] == "s3://b/set"
    assert {"prompts.train", "prompts.test", "policy.weights.location"} <= set(found)


def test_a_location_that_is_not_set_is_not_listed() -> None:
    assert "reference_images.existing" not in locations(resolve("pocket"))


def test_every_value_that_looks_like_a_location_is_listed() -> None:
    for preset in preset_names():
        config = resolve(preset, given(preset))
        listed = sorted(locations(config).values())
        text = config.to_yaml().split()
        # Links to licences are read by people alone.
        found = [word for word in text if "://" in word and not word.startswith("https://")]
        assert sorted(found) == listed


def test_each_pretrained_model_is_listed() -> None:
    found = pretrained_weights(resolve("pocket"))
    assert found["discriminator.weights"].location.endswith("weights/dino")
    assert "training.reward.terms.1.scorer.weights" in found


def test_all_models_can_be_replaced() -> None:
    other = Weights(location="another")
    for preset in preset_names():
        config = resolve(preset, given(preset))
        changed = with_weights(config, lambda _weights: other)
        assert pretrained_weights(changed) == dict.fromkeys(pretrained_weights(config), other)
        assert with_weights(changed, lambda weights: weights) == changed
        assert with_weights(config, lambda weights: weights) == config


@pytest.mark.parametrize(
    "location",
    [
        "s3:/bucket/x",
        "s3:bucket/x",
        "s3//bucket/x",
        "S3:/bucket",
        "http:/host/x",
        "s3:///x",
        "s3://",
    ],
)
def test_a_malformed_location_is_refused(location: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(location)):
        resolve("pocket", [f"reference_images.existing={location}"])


def test_a_path_may_contain_colons() -> None:
    for path in ("./s3:/folder", "runs/12:30/set", "12:30"):
        assert Weights(location=path).location == path


@pytest.mark.parametrize(
    "alias", ["latest", "Latest", "v12", "V1", "champion", "a" * 256, "1a", ""]
)
def test_an_alias_that_mlflow_would_refuse_is_refused(alias: str) -> None:
    with pytest.raises(ConfigError, match=r"promotion\.alias"):
        resolve("pocket", [f"promotion.alias='{alias}'"])


def test_similar_aliases_are_accepted() -> None:
    for alias in ("v1x", "version1", "candidate", "latest-2", "a" * 255):
        assert resolve("pocket", [f"promotion.alias={alias}"]).promotion.alias == alias


@pytest.mark.parametrize(
    "name", ["a" * 257, "' lead'", "'trail '", r'"new\nline"', r"'back\slash'", "a/b", "a:b", "''"]
)
def test_a_model_name_that_mlflow_would_refuse_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=r"promotion\.registered_model"):
        resolve("pocket", [f"promotion.registered_model={name}"])
