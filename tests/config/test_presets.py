from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from advgrpo.config import RunConfig, preset_files, preset_names, resolve
from advgrpo.config.algorithms import NftConfig, OldPolicyConfig
from advgrpo.config.denoising_steps import CpsSampler, FixedWindow
from advgrpo.config.discriminator import DinoDiscriminatorConfig, PickScoreDiscriminatorConfig
from advgrpo.config.policy import Sd3AdapterConfig
from advgrpo.config.preset_files import read_preset
from advgrpo.config.reference_images import DiffusersSource
from advgrpo.config.training import ReleasedSchedule, WhenOutscored
from advgrpo.errors import ConfigError
from tests.config.given import COMMIT, given

PRESETS = Path(preset_files.__file__).with_name("presets")
FULL_SIZE = [name for name in preset_names() if not name.startswith("pocket")]
RELEASED = ["sd35m_dino_released", "sd35m_pickscore_released"]


def test_the_presets_are_those_the_docs_name() -> None:
    assert preset_names() == [
        "flux1_dino",
        "flux2_klein_dino",
        "pocket",
        "pocket_nft",
        "qwen_image_dino",
        "sd35l_dino",
        "sd35m_dino",
        "sd35m_dino_nft",
        "sd35m_dino_released",
        "sd35m_ocr",
        "sd35m_pickscore",
        "sd35m_pickscore_released",
        "sd35m_style",
        "z_image_dino",
    ]


def _repeated(above: dict[str, Any], below: dict[str, Any], path: str = "") -> Iterator[str]:
    """List the settings of a preset that equal those of the extended one."""
    for key, value in above.items():
        old = below.get(key)
        if not isinstance(value, dict) or not isinstance(old, dict):
            if key in below and value == old:
                yield path + key
        elif value.get("type", old.get("type")) == old.get("type"):
            yield from _repeated(value, old, f"{path}{key}.")


@pytest.mark.parametrize("preset", [*FULL_SIZE, "pocket_nft"])
def test_a_preset_states_only_what_differs_from_the_extended_one(preset: str) -> None:
    own = yaml.safe_load((PRESETS / f"{preset}.yaml").read_text("utf-8"))
    parent = own.pop("extends")
    below = read_preset(parent if parent in preset_names() else str(PRESETS / parent))
    assert list(_repeated(own, below.settings)) == []


@pytest.mark.parametrize("gpus", [1, 2, 8, 16, 64])
@pytest.mark.parametrize("preset", FULL_SIZE)
def test_a_full_size_preset_can_be_shared_by_so_many_gpus(preset: str, gpus: int) -> None:
    resolve(preset, given(preset)).check_ranks(gpus)


@pytest.mark.parametrize("preset", FULL_SIZE)
def test_a_number_of_gpus_that_cannot_share_a_preset_is_refused_with_numbers_that_can(
    preset: str,
) -> None:
    with pytest.raises(ConfigError, match=r"use 1, 2, (3, )?4, (6, )?8, .*64\b.* processes"):
        resolve(preset, given(preset)).check_ranks(5)


@pytest.mark.parametrize("preset", FULL_SIZE)
def test_missing_settings_are_named_with_the_options_that_set_them(preset: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve(preset)
    message = str(caught.value)
    for override in given(preset):
        key, _, value = override.partition("=")
        other = "FOLDER" if key == "reference_images.source.location" else "FILE"
        assert f"--set {key}={'COMMIT' if value == COMMIT else other}" in message
    assert read_preset(preset).settings["policy"]["weights"]["location"] in message
    assert {"prompts.train", "revisions.facebook/dinov2-base"} <= {
        o.partition("=")[0] for o in given(preset)
    }
    assert f"advgrpo init {preset} --prompts FILE" in message


def test_no_preset_pins_a_commit() -> None:
    for preset in FULL_SIZE:
        settings = resolve(preset, given(preset)).to_yaml()
        assert settings.count("hub://") == settings.count(COMMIT) > 0


def test_one_commit_pins_all_settings_of_a_repository() -> None:
    config = resolve("sd35m_dino", given("sd35m_dino"))
    text_encoder = config.discriminator.prompt_conditioning.text_encoder  # type: ignore[union-attr]
    assert config.policy.weights.revision == text_encoder.revision == COMMIT


def test_a_revision_at_the_model_itself_is_kept() -> None:
    other = COMMIT[::-1]
    config = resolve("sd35m_dino", [f"policy.weights.revision={other}", *given("sd35m_dino")])
    assert config.policy.weights.revision == other


def test_a_misspelled_repository_is_named_with_the_one_that_lacks_a_commit() -> None:
    mine = [o.replace("Qwen/Qwen-Image", "Qwen/Qwen-Imag") for o in given("sd35m_dino")]
    with pytest.raises(ConfigError, match="Qwen/Qwen-Imag: no setting uses") as caught:
        resolve("sd35m_dino", mine)
    assert "write Qwen/Qwen-Image," in caught.value.repair


def test_revisions_that_are_not_a_mapping_are_refused() -> None:
    with pytest.raises(ConfigError, match="revisions=3: is not a mapping"):
        resolve("sd35m_dino", ["revisions=3"])


def test_a_misspelled_key_is_reported_before_missing_settings() -> None:
    with pytest.raises(ConfigError, match=r"training\.update: unknown key"):
        resolve("sd35m_dino", ["training.update=3"])


def test_only_needed_sections_must_be_complete() -> None:
    pinned = f"revisions.stabilityai/stable-diffusion-3.5-medium={COMMIT}"
    config = resolve("sd35m_dino", [pinned], needed={"policy"})
    assert config.policy.weights.revision == COMMIT
    with pytest.raises(ConfigError) as caught:
        resolve("sd35m_dino", needed={"policy"})
    assert "stable-diffusion-3.5-medium" in str(caught.value)
    assert "dinov2" not in str(caught.value)
    assert "prompts.train" not in str(caught.value)


def test_existing_reference_images_need_no_generator() -> None:
    mine = [o for o in given("sd35m_dino") if "Qwen" not in o]
    config = resolve("sd35m_dino", [*mine, "reference_images.existing=s3://b/set"])
    assert config.reference_images.source is None
    # A pinned generator stays: it generates what the set lacks.
    config = resolve("sd35m_dino", [*given("sd35m_dino"), "reference_images.existing=s3://b/set"])
    assert config.reference_images.source is not None


def test_reference_images_need_an_origin() -> None:
    with pytest.raises(ConfigError, match="neither source nor existing is set"):
        resolve("pocket", ["reference_images.source=null"])


def test_only_missing_settings_are_named() -> None:
    with pytest.raises(ConfigError) as caught:
        resolve("sd35m_dino", [f"revisions.Qwen/Qwen-Image={COMMIT}", "prompts.train=mine.txt"])
    assert "Qwen-Image" not in str(caught.value)
    assert "prompts.train" not in str(caught.value)
    assert "prompts.test" in str(caught.value)


def test_other_weights_need_no_commit() -> None:
    mine = [o for o in given("sd35m_dino") if "dinov2-large" not in o]
    own = "evaluation.distance.weights.location=s3://b/own"
    assert resolve("sd35m_dino", [*mine, own]).evaluation.distance.weights.revision is None


def test_a_draft_may_miss_settings_but_is_otherwise_validated() -> None:
    assert resolve("sd35m_dino", needed=()).prompts.train == "not-given/train.txt"
    mine = resolve("sd35m_dino", ["prompts.train=mine.txt"], needed=())
    assert mine.prompts.train == "mine.txt"
    with pytest.raises(ConfigError, match=r"training\.updates=0"):
        resolve("sd35m_dino", ["training.updates=0"], needed=())


@pytest.mark.parametrize("needed", [(), None])
def test_prompts_that_are_not_a_section_are_refused_by_name(needed: tuple[str, ...] | None) -> None:
    with pytest.raises(ConfigError, match="prompts=3"):
        resolve("pocket", ["prompts=3"], needed=needed)


def _released(preset: str) -> RunConfig:
    return resolve(preset, given(preset))


@pytest.mark.parametrize("preset", RELEASED)
def test_a_released_preset_samples_and_updates_as_the_released_code(preset: str) -> None:
    config = _released(preset)
    training, sampling = config.training, config.training.sampling
    algorithm = training.algorithm
    assert config.policy.adapter.rank == 32
    assert config.policy.adapter.alpha == 64
    assert config.policy.adapter.target_modules == Sd3AdapterConfig().target_modules
    assert config.policy.adapter.ema_decay == 0.9
    assert config.policy.resolution_pixels == 512
    assert training.rollout.prompts_per_update * training.rollout.group_size == 768
    assert training.rollout.group_size == 16
    assert sampling.num_inference_steps == 10
    assert config.evaluation.num_inference_steps == 40
    assert sampling.guidance_scale == 4.5
    assert algorithm.sampler == CpsSampler(noise_level=0.8)
    assert algorithm.window == FixedWindow(start=0, length=2)
    assert not algorithm.shared_prefix
    assert training.optimizer_steps_per_update == 2
    optimizer = training.optimizer
    assert (optimizer.learning_rate, optimizer.decay) == (3e-4, "constant")
    assert (optimizer.betas, optimizer.epsilon) == ((0.9, 0.999), 1e-8)
    assert (optimizer.weight_decay, optimizer.max_grad_norm) == (1e-4, 1.0)
    losses = (algorithm.clip_range, algorithm.log_prob, algorithm.kl_weight)
    assert losses == (1e-5, "released", 0)
    assert (training.advantage_normalization, algorithm.advantage_clip) == ("batch", 5)
    assert config.discriminator.pretraining.steps == 0
    assert config.discriminator.optimizer.betas == (0.5, 0.999)
    assert config.discriminator.optimizer.replay_images == 0
    assert config.discriminator.optimizer.batch_size == 768


@pytest.mark.parametrize("preset", RELEASED)
def test_a_released_preset_draws_reference_images_as_the_released_code(preset: str) -> None:
    references = _released(preset).reference_images
    source = references.source
    assert isinstance(source, DiffusersSource)
    assert source.weights.location == "hub://Qwen/Qwen-Image"
    assert (source.num_inference_steps, source.guidance_scale) == (50, 4.0)
    assert (source.guidance_argument, source.negative_prompt) == ("true_cfg_scale", " ")
    assert (references.images_per_prompt, references.resolution_pixels) == (8, 512)


def test_the_nft_preset_has_the_values_of_the_published_run() -> None:
    training = _released("sd35m_dino_nft").training
    assert training.rollout.prompts_per_update * training.rollout.group_size == 48 * 24
    assert training.optimizer_steps_per_update == 1
    assert (training.sampling.num_inference_steps, training.sampling.guidance_scale) == (10, 1.0)
    assert (training.optimizer.learning_rate, training.advantage_normalization) == (3e-4, "batch")
    assert training.algorithm == NftConfig(
        draws=9,
        beta=1.0,
        advantage_clip=5.0,
        kl_weight=1e-4,
        old_policy=OldPolicyConfig(flat_steps=0, growth=0.001, limit=0.5),
    )


def test_the_released_dino_preset_follows_the_released_schedule() -> None:
    config = _released("sd35m_dino_released")
    discriminator, schedule = config.discriminator, config.training.update_schedule
    assert isinstance(discriminator, DinoDiscriminatorConfig)
    assert isinstance(schedule, ReleasedSchedule)
    assert schedule.discriminator_rollouts == 9
    assert config.training.updates * (schedule.discriminator_rollouts + 1) == 910
    assert config.training.optimizer_steps == 182
    assert (discriminator.hidden_width, discriminator.resolution_pixels) == (512, 518)
    assert (discriminator.cls_loss_weight, discriminator.patch_loss_weight) == (1.0, 0.3)
    assert (discriminator.cls_reward_weight, discriminator.patch_reward_weight) == (0.7, 0.3)
    assert discriminator.optimizer.learning_rate == 1e-4
    assert discriminator.prompt_conditioning is None


def test_the_released_pickscore_preset_trains_its_discriminator_only_while_fooled() -> None:
    config = _released("sd35m_pickscore_released")
    discriminator = config.discriminator
    assert isinstance(discriminator, PickScoreDiscriminatorConfig)
    assert config.training.update_schedule == WhenOutscored(
        discriminator_steps=1, pause_policy=True
    )
    assert discriminator.trained_blocks == 1
    assert discriminator.optimizer.learning_rate == 5e-6


@pytest.mark.parametrize("preset", FULL_SIZE)
def test_gates_measure_what_the_reward_was_not_trained_on(preset: str) -> None:
    config = resolve(preset, given(preset))
    assert config.evaluation.alignment.partition(".")[0] not in config.independence.trained_on
    assert "distance.frechet" not in config.independence.related
    assert {gate.metric for gate in config.promotion.gates} == {"distance", "alignment"}


def test_the_ocr_preset_mixes_text_with_similarity_and_keeps_its_metrics_apart() -> None:
    config = _released("sd35m_ocr")
    weights = {term.name: term.weight for term in config.training.reward.terms}
    assert weights == {"ocr": 0.5, "reference_similarity": 0.25, "discriminator": 0.25}
    assert config.training.reward.standardize
    assert config.independence.trained_on == {"ocr", "reference_similarity"}
    assert {"ocr", "reference_similarity"} <= {s.type for s in config.evaluation.scorers}


def test_the_style_preset_pairs_no_image_with_a_prompt() -> None:
    config = _released("sd35m_style")
    assert config.reference_images.serve_any_prompt
    assert isinstance(config.discriminator, DinoDiscriminatorConfig)
    assert config.discriminator.prompt_conditioning is None


def test_a_given_style_folder_is_not_named_as_missing() -> None:
    with pytest.raises(ConfigError) as caught:
        resolve("sd35m_style", ["reference_images.source.location=pictures"])
    assert "reference_images.source.location" not in str(caught.value)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            (
                "discriminator.prompt_conditioning={text_encoder: {location: a}, "
                "tokenizer: {location: a}}"
            ),
            "discriminator.prompt_conditioning",
        ),
        ("discriminator={type: pickscore, weights: {location: a}}", "discriminator.type=pickscore"),
        (
            (
                "training.reward.terms=[{type: scorer, scorer: {type: reference_similarity, "
                "weights: {location: a}}}]"
            ),
            "training.reward.terms.0",
        ),
        (
            (
                "evaluation.scorers=[{type: clip_score, weights: {location: a}}, "
                "{type: reference_similarity, weights: {location: a}}]"
            ),
            "evaluation.scorers.1",
        ),
        ("reference_images.existing=somewhere", "reference_images.existing"),
        (
            (
                "training={algorithm: {type: nft}, rollout: {references_per_prompt: 1}, "
                "sampling: {guidance_scale: 1.0}}"
            ),
            "training.rollout.references_per_prompt",
        ),
    ],
)
def test_settings_that_pair_images_with_prompts_exclude_a_folder(
    override: str, message: str
) -> None:
    with pytest.raises(ConfigError, match="serve any prompt") as caught:
        resolve("sd35m_style", [*given("sd35m_style"), override])
    assert message in str(caught.value)
