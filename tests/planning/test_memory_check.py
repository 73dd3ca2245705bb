import pytest

from advgrpo.config import resolve
from advgrpo.config.tasks import TrainingSettings
from advgrpo.errors import ConfigError
from advgrpo.planning.fitting import check_fits
from advgrpo.planning.memory_check import check_gpu_memory, check_host_memory, free_host_memory
from advgrpo.planning.parts import Part

GIB = 2**30


def settings(*overrides: str, preset: str = "sd35m_dino") -> TrainingSettings:
    return TrainingSettings.of(resolve(preset, overrides, needed=()))


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
