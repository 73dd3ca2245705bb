import pytest

from advgrpo.config import resolve
from advgrpo.config.tasks import TrainingSettings
from advgrpo.errors import ConfigError
from advgrpo.planning.fitting import (
    check_fits,
    check_gpu_memory,
    check_host_memory,
    fit,
    fitted_values,
    free_host_memory,
)
from advgrpo.planning.memory import gpu_memory
from advgrpo.planning.models import models_of
from advgrpo.planning.parts import Part, total

GIB = 2**30


def settings(*overrides: str, preset: str = "sd35m_dino") -> TrainingSettings:
    return TrainingSettings.of(resolve(preset, overrides, needed=()))


def fitted(free_gib: int | None, *overrides: str, preset: str = "sd35m_dino") -> tuple[str, ...]:
    task = settings(*overrides, preset=preset)
    return tuple(fitted_values(task, fit(task, 8, free=free_gib and free_gib * GIB)).values())


@pytest.mark.parametrize(
    ("free_gib", "values"),
    [
        (139, ("16", "false", "one_batch")),
        (79, ("12", "false", "one_batch")),
        (39, ("4", "false", "one_batch")),
        (23, ("16", "true", "one_batch")),
        # Recomputed before images pass one by one.
        (19, ("12", "true", "two_passes")),
        (1, ("1", "true", "two_passes")),
        # As before there was `auto`.
        (None, ("8", "false", "one_batch")),
    ],
)
def test_the_fastest_way_that_fits_is_chosen(free_gib: int | None, values: tuple[str, ...]) -> None:
    assert fitted(free_gib) == values


def test_a_microbatch_that_is_fitted_divides_the_images_of_a_rank() -> None:
    # 1152 images on 8 ranks.
    assert fitted(39, preset="sd35m_dino_nft")[0] == "9"


def test_what_is_set_stays() -> None:
    given = ("training.rollout.microbatch_size=3", "policy.gradient_checkpointing=true")
    task = settings(*given)
    after = fit(task, 8, free=79 * GIB)
    assert fitted_values(task, after) == {"policy.guidance": "one_batch"}
    assert after.training.rollout.microbatch_size == 3
    assert after.policy.gradient_checkpointing is True


def test_a_transformer_of_unknown_size_is_trained_carefully() -> None:
    unknown = "policy.weights.location=nowhere"
    assert fitted(79, unknown) == ("6", "true", "one_batch")


@pytest.mark.parametrize(
    ("free_gib", "named"), [(20, "set training.rollout"), (2, "use GPUs with")]
)
def test_a_card_that_is_too_small_is_named_with_what_would_fit(free_gib: int, named: str) -> None:
    task = settings("policy.gradient_checkpointing=false", "training.rollout.microbatch_size=16")
    with pytest.raises(ConfigError, match="a small card") as error:
        check_gpu_memory(task, processes=8, free=free_gib * GIB, card="a small card")
    assert named in error.value.repair
    assert "policy.gradient_checkpointing=true" in error.value.repair
    smallest = fit(settings(), 8, free=1)
    needed = total(gpu_memory(smallest, models_of(smallest), 8)) / GIB
    assert (f"{needed:.1f} GiB" in error.value.repair) == (free_gib == 2)


def host(task: TrainingSettings, free: int, *, here: int = 8) -> None:
    check_host_memory(task, processes=8, here=here, on_gpu=True, free=free)


def test_only_trainings_larger_than_the_free_memory_are_refused() -> None:
    parts = [Part("a", 3 * GIB, ""), Part("unknown", None, "")]
    check_fits(parts, 3 * GIB, where="memory", repair="less")
    with pytest.raises(ConfigError, match=r"3\.00 GiB of memory.*a 3\.00 GiB") as error:
        check_fits(parts, 3 * GIB - 1, where="memory", repair="less")
    assert error.value.repair.startswith("less; or set training.memory_check=warn")


def test_a_gpu_that_is_too_small_is_refused_with_the_settings_that_save_memory() -> None:
    check_gpu_memory(settings(), processes=8, free=75 * GIB)
    with pytest.raises(ConfigError, match="each GPU's memory") as error:
        check_gpu_memory(settings(), processes=8, free=8 * GIB)
    assert "training.rollout.microbatch_size" in error.value.repair


def test_host_memory_covers_the_processes_and_earlier_the_text_encoders() -> None:
    task = settings("policy.text_device=cpu")
    host(task, 64 * GIB)
    with pytest.raises(ConfigError, match=r"this machine's memory.*text encoders"):
        host(task, 10 * GIB, here=1)
    with pytest.raises(ConfigError, match="8 processes"):
        host(settings("discriminator.optimizer.replay_images=500000"), 120 * GIB)


def test_text_encoders_count_once_per_gpu_on_the_host() -> None:
    task = settings("policy.text_device=gpu")
    host(task, 120 * GIB)
    with pytest.raises(ConfigError, match="8 x text encoders") as error:
        host(task, 64 * GIB)
    assert "policy.text_device=cpu" in error.value.repair


def test_on_a_cpu_the_models_count_as_well() -> None:
    task = settings(preset="pocket")
    check_host_memory(task, processes=2, here=2, on_gpu=False, free=free_host_memory())
    with pytest.raises(ConfigError, match="2 processes"):
        check_host_memory(task, processes=2, here=2, on_gpu=False, free=2**24)


def test_the_memory_check_can_be_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    host(settings("training.memory_check=warn"), GIB)
    assert "GiB are free" in caplog.text
