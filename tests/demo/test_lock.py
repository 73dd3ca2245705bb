import os
import subprocess
import sys
from pathlib import Path

import pytest

from advgrpo.demo.lock import OWNER, only_demo_in
from advgrpo.errors import ConfigError


def test_a_second_demo_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    with (
        only_demo_in(tmp_path),
        pytest.raises(ConfigError, match=f"is running in .* \\(process {os.getpid()}\\)"),
        only_demo_in(tmp_path),
    ):
        pass


def test_a_folder_is_free_again_after_a_demo(tmp_path: Path) -> None:
    for _ in range(2):
        with only_demo_in(tmp_path):
            pass


def _sleeper(folder: Path) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(60)"],
        env={**os.environ, OWNER: str(folder.resolve())},
        stdout=subprocess.PIPE,
        start_new_session=True,
    )


def test_only_processes_of_a_killed_demo_are_stopped(tmp_path: Path) -> None:
    ours, other = tmp_path / "ours", tmp_path / "other"
    with _sleeper(ours) as left, _sleeper(other) as foreign:
        assert left.stdout is not None
        assert foreign.stdout is not None
        left.stdout.readline()
        foreign.stdout.readline()
        with only_demo_in(ours):
            assert left.poll() is not None
            assert foreign.poll() is None
        foreign.kill()
