import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from advgrpo.runtime.environment import environment
from advgrpo.runtime.exit_with_parent import lifeline

CHILD = """
import time
from advgrpo.runtime.failures import record_failures
with record_failures("train"):
    print("started", flush=True)
    time.sleep(60)
"""
PARENT = f"""
import subprocess, sys, time
from pathlib import Path
from advgrpo.runtime.environment import environment
from advgrpo.runtime.exit_with_parent import lifeline
with lifeline(Path(sys.argv[1])) as variables, environment(variables):
    child = subprocess.Popen([sys.executable, "-c", {CHILD!r}], stdout=subprocess.PIPE)
    child.stdout.readline()
    print(child.pid, flush=True)
    time.sleep(60)
"""


def _gone(process: psutil.Process, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not process.is_running() or process.status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.02)
    return False


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_task_does_not_outlive_the_process_that_started_it(tmp_path: Path, number: int) -> None:
    command = [sys.executable, "-c", PARENT, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        assert not _gone(child, 0.2)
        os.kill(parent.pid, number)
        parent.wait()
    assert _gone(child, 10)


def test_a_task_that_starts_after_its_parent_has_ended_ends_at_once(tmp_path: Path) -> None:
    with lifeline(tmp_path) as variables:
        pass
    with environment(variables):
        ended = subprocess.run(
            [sys.executable, "-c", CHILD], cwd=Path(__file__).parents[2], check=False, timeout=30
        )
    assert ended.returncode == -signal.SIGKILL
