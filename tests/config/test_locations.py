from advgrpo.config import Weights, locations, preset_names, pretrained_weights, resolve
from advgrpo.config.locations import with_weights
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
        assert sorted(word for word in text if "://" in word) == listed


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
