import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from advgrpo.config import RunConfig, preset_names, preset_title, resolve
from advgrpo.errors import ConfigError
from advgrpo.planning.work import work_of
from tests.config.given import given


@pytest.mark.parametrize(("family", "meant"), [("z_imge", "z_image"), ("flux2", "flux2_klein")])
def test_an_unknown_family_is_refused_with_the_nearest(family: str, meant: str) -> None:
    with pytest.raises(ConfigError, match=rf"policy\.type={family}: .*; did you mean {meant}\?"):
        resolve("pocket", [f"policy.type={family}"])


def test_a_policy_without_a_family_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"policy\.type: is missing"):
        resolve("pocket", ["policy={weights: {location: somewhere}}"])


@pytest.mark.parametrize("preset", preset_names())
def test_every_preset_resolves(preset: str) -> None:
    assert isinstance(resolve(preset, given(preset)), RunConfig)


@pytest.mark.parametrize("preset", preset_names())
def test_settings_survive_yaml(preset: str, tmp_path: Path) -> None:
    config = resolve(preset, given(preset))
    file = tmp_path / "run.yaml"
    file.write_text(config.to_yaml(), encoding="utf-8")
    assert resolve(str(file)) == config


def test_an_override_changes_one_key() -> None:
    config = resolve("pocket", ["training.updates=7", "evaluation.seed=3"])
    assert config.training.updates == 7
    assert config.evaluation.seed == 3
    assert config.policy == resolve("pocket").policy


def test_an_override_reaches_into_a_list() -> None:
    config = resolve("pocket", ["training.reward.terms.1.weight=0.25"])
    assert config.training.reward.terms[1].weight == 0.25


def test_a_number_in_scientific_notation_is_a_number() -> None:
    assert (
        resolve("pocket", ["training.algorithm.clip_range=1e-4"]).training.algorithm.clip_range
        == 1e-4
    )


def test_an_override_adds_a_section_that_the_preset_lacks() -> None:
    config = resolve("pocket", ["training.monitoring.held_out_prompts=8"])
    assert config.training.monitoring.held_out_prompts == 8


BOTH_BOUNDS = (
    "training.algorithm={type: grpo, sampler: {type: flow_sde}, normalize_ratio: true, "
    "divergence_bound: 0.1}"
)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.updats=7", "did you mean training.updates?"),
        (
            "training.update_schedule.type=frozen",
            "to change the type, set the whole section, as in --set 'training.update_schedule={",
        ),
        ("training.updates=many", "training.updates='many'"),
        ("training.updates=0", "training.updates=0"),
        ("training.updates", "does not have the form KEY=VALUE"),
        ("training.updates.x=1", "training.updates=80: is a value"),
        ("training.reward.terms.9.weight=1", "'9' is not a position in a list of 2"),
        ("policy.weights.location=ftp://x/y", "is not a supported scheme"),
        ("policy.resolution_pixels=64", "reference_images.resolution_pixels=32"),
        ("training.algorithm.normalize_ratio=true", "sampler={type: flow_sde}"),
        (
            BOTH_BOUNDS,
            "set only one of them",
        ),
        (
            "training.algorithm.window={type: sliding, first_start: 3, last_start: 1}",
            "last_start=1 is before first_start=3",
        ),
        ("training.sampling.num_inference_steps=5", "training.algorithm.window ends after"),
        ("training.algorithm.fast_sampling.tail_steps=3", "tail_steps=3: a window may end 2"),
        (
            "training.algorithm.fast_sampling.guidance_interval=[0, 0.5]",
            "guidance_scale switches guidance off in all",
        ),
        (
            "training.algorithm.fast_sampling.guidance_interval=[0.6, 0.2]",
            "does not start before it ends",
        ),
        ("training.optimizer_steps_per_update=3", "would split a group"),
        ("training.rollout.microbatch_size=48", "training.rollout.microbatch_size=48"),
        ("training.rollout.microbatch_size=0", "training.rollout.microbatch_size=0: input"),
        ("evaluation.alignment=clip.score", "is not a metric of evaluation.scorers"),
        ("training.update_schedule={type: never}", "training.update_schedule"),
    ],
)
def test_an_invalid_setting_is_refused_by_name_and_value(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match="repair: ") as caught:
        resolve("pocket", [override])
    assert message in str(caught.value)


def test_all_invalid_settings_are_listed_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        resolve("pocket", ["seed=-1", "training.updates=0"])
    assert "seed=-1" in str(caught.value)
    assert "training.updates=0" in str(caught.value)


def test_a_setting_without_a_default_is_required(tmp_path: Path) -> None:
    settings = yaml.safe_load(resolve("pocket").to_yaml())
    del settings["discriminator"]["weights"]
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump(settings), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"discriminator\.weights: is missing"):
        resolve(str(file))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xff\xfe", "cannot be read"),
        (b"a: [", "is not valid YAML"),
        (b"- 1", "does not hold settings"),
    ],
)
def test_a_preset_file_that_is_not_a_mapping_is_refused(
    content: bytes, message: str, tmp_path: Path
) -> None:
    file = tmp_path / "run.yaml"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        resolve(str(file))


def test_an_unknown_preset_is_answered_with_the_nearest_name() -> None:
    with pytest.raises(ConfigError, match=r"did you mean pocket\?"):
        resolve("pokket")


def test_ranks_that_cannot_share_an_update_are_refused_with_numbers_that_work() -> None:
    config = resolve("pocket")
    config.check_ranks(2)
    with pytest.raises(ConfigError, match="use 1, 2 processes"):
        config.check_ranks(3)


def test_reading_settings_loads_neither_torch_nor_kfp() -> None:
    code = (
        "import sys, advgrpo.config, advgrpo.config.tasks; "
        "sys.exit(bool({'torch', 'kfp', 'mlflow'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_preset_may_be_a_text_of_several_lines() -> None:
    text = resolve("pocket", ["seed=5"]).to_yaml()
    assert resolve(text, ["training.updates=3"]) == resolve(
        "pocket", ["seed=5", "training.updates=3"]
    )


@pytest.mark.parametrize(
    ("preset", "title"),
    [
        ("pocket", "pocket"),
        ("a/b.yaml", "a/b.yaml"),
        ("a: 1\nb: 2", "custom"),
        ("# mine\na: 1", "mine"),
    ],
)
def test_a_preset_has_a_short_name(preset: str, title: str) -> None:
    assert preset_title(preset) == title


def test_an_error_in_a_text_does_not_quote_all_of_it() -> None:
    with pytest.raises(ConfigError, match="settings of custom are invalid"):
        resolve(resolve("pocket").to_yaml() + "\nunknown: 1\n")
    with pytest.raises(ConfigError, match="preset 'custom' is not valid YAML"):
        resolve("a: [\nb: {")


def test_of_many_errors_the_first_are_listed_and_the_others_counted() -> None:
    unknown = "".join(f"unknown_{number}: 1\n" for number in range(1000))
    with pytest.raises(ConfigError, match=r"(?s)unknown_0: unknown key.*and 980 more") as caught:
        resolve(resolve("pocket").to_yaml() + unknown)
    assert caught.value.message.count("\n  - ") == 20


def test_a_random_window_whose_starts_are_not_in_order_is_refused() -> None:
    window = "training.algorithm.window={type: random, first_start: 3, last_start: %d, length: 1}"
    assert [*resolve("pocket", [window % 3]).training.algorithm.window.starts] == [3]
    with pytest.raises(ConfigError, match=r"algorithm.window: first_start=3 is after last_start=2"):
        resolve("pocket", [window % 2])


SELECTION = (
    "training.rollout={prompts_per_update: 4, group_size: 8, microbatch_size: 8, select: %s}"
)


@pytest.mark.parametrize(
    ("select", "message"),
    [
        ("{best: 4, worst: 4}", "are all of group_size=8 images"),
        ("{best: 0, worst: 4}", "select.best=0"),
        ("{best: 1, worst: 2}", "microbatch_size=8: must divide the 12 images .* x 3 images"),
    ],
)
def test_a_selection_that_is_no_part_of_a_group_is_refused(select: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        resolve("pocket", [SELECTION % select])


def test_ranks_that_select_need_whole_groups() -> None:
    run = resolve("pocket", [SELECTION % "{best: 2, worst: 2}"])
    run.check_ranks(2)
    assert work_of(run, 2).update_passes_per_update == 4 * 4 * 2
    sixteen = ["training.rollout.update_microbatch_size=1", "training.rollout.microbatch_size=1"]
    with pytest.raises(ConfigError, match="and whole groups") as caught:
        resolve("pocket", [SELECTION % "{best: 2, worst: 2}", *sixteen]).check_ranks(16)
    assert "use 1, 2, 4 processes" in caught.value.repair
