import logging
import subprocess
import threading
import time
from pathlib import Path

import pytest

from advgrpo.config import resolve
from advgrpo.config.training import HangsConfig
from advgrpo.errors import ConfigError
from advgrpo.runtime.process_group import ProcessGroup
from advgrpo.runtime.rank_status import RankMonitor
from advgrpo.runtime.watchdog import Watchdog
from advgrpo.training.stragglers import Stragglers

ROOT = Path(__file__).parents[2]


def never(reason: str) -> None:
    raise AssertionError(reason)


def test_a_process_without_progress_is_reported_with_its_stacks(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monitor = RankMonitor(0, 1)
    config = HangsConfig(report_after_seconds=1, timeout_seconds=60)
    monitor.enter("policy update", 7)
    with (tmp_path / "stacks").open("w") as stacks:  # noqa: SIM117
        with Watchdog(monitor, config, give_up=never, stacks=stacks):
            time.sleep(1.8)
    reports = [record.message for record in caplog.records if "no progress" in record.message]
    assert len(reports) == 1
    assert "works or hangs in policy update of rollout 7" in reports[0]
    text = (tmp_path / "stacks").read_text(encoding="utf-8")
    assert "test_a_process_without_progress_is_reported" in text


def test_a_process_with_progress_is_not_reported(caplog: pytest.LogCaptureFixture) -> None:
    monitor = RankMonitor(0, 1)
    config = HangsConfig(report_after_seconds=1, timeout_seconds=2)
    with Watchdog(monitor, config, give_up=never):
        for _ in range(15):
            time.sleep(0.1)
            monitor.beat()
    assert "no progress" not in caplog.text


def test_a_process_that_hangs_is_given_up(tmp_path: Path) -> None:
    given_up, reasons = threading.Event(), []

    def give_up(reason: str) -> None:
        reasons.append(reason)
        given_up.set()

    config = HangsConfig(report_after_seconds=1, timeout_seconds=2)
    with (tmp_path / "stacks").open("w") as stacks:  # noqa: SIM117
        with Watchdog(RankMonitor(0, 1), config, give_up=give_up, stacks=stacks):
            assert given_up.wait(timeout=30)
    assert len(reasons) == 1
    assert "timeout_seconds=2" in reasons[0]


def test_reporting_after_giving_up_is_refused() -> None:
    with pytest.raises(ConfigError, match="fail without a report"):
        resolve("pocket", ["training.hangs.report_after_seconds=1800"])


@pytest.mark.slow
def test_the_rank_that_the_others_wait_for_is_named(warm_interpreter: Path, tmp_path: Path) -> None:
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [str(warm_interpreter), *launch, "-m", "tests.training.hanging_program", str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode != 0
    text = (tmp_path / "rank-0").read_text(encoding="utf-8")
    assert "another training process stopped responding" in text
    assert "rank 0 on" in text
    assert "waits for the others in rollout of rollout 3" in text
    assert "works or hangs in reward of rollout 3" in text
    assert "no progress for" in done.stderr
    assert "hanging_program.py" in done.stderr


class Three(ProcessGroup):
    """Three processes, of which the others' seconds are fixed."""

    def __init__(self, others: list[float]) -> None:
        super().__init__()
        self.world_size, self._others = 3, others

    def gather(self, values):  # noqa: ANN001 - as in ProcessGroup
        import torch

        return torch.cat([values, torch.tensor(self._others, dtype=values.dtype)])


def test_a_slow_process_is_named_once_it_was_slow_three_times(
    caplog: pytest.LogCaptureFixture,
) -> None:
    stragglers = Stragglers(Three([10.0, 21.0]), slow_ratio=1.5)
    for _ in range(2):
        metrics = stragglers.metrics(10.0)
    assert metrics == {"cost/slowest_rank_ratio": 2.1, "cost/slowest_rank": 2.0}
    assert caplog.text == ""
    for _ in range(3):
        stragglers.metrics(10.0)
    assert caplog.text.count("rank 2 took 2.1 times") == 1


def test_small_differences_and_single_processes_are_not_reported(
    caplog: pytest.LogCaptureFixture,
) -> None:
    stragglers = Stragglers(Three([0.1, 0.9]), slow_ratio=1.5)
    for _ in range(5):
        stragglers.metrics(0.1)
    assert Stragglers(ProcessGroup(), slow_ratio=1.5).metrics(3.0) == {}
    assert [r for r in caplog.records if r.levelno >= logging.WARNING] == []
