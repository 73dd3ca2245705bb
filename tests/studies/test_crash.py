"""The crash harness in small; `make crash-test` makes more kills."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from subprocess import PIPE
from types import SimpleNamespace

import psutil
import pytest

from advgrpo.demo.servers import EmbeddedServers
from advgrpo.storage import join
from advgrpo.training.reference_features import FEATURES
from studies.crash import warm
from studies.crash.disk import Disk
from studies.crash.interpreter import Warm
from studies.crash.job import TRAINING, WORKSPACE
from studies.crash.outcome import differences
from studies.crash.points import POINTS, arm
from studies.crash.rig import Kill, Rig, random_kill
from studies.crash.strikes import STRIKES, Scene


@pytest.fixture
def rig(
    stores: EmbeddedServers, warm: Warm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Rig]:
    with Rig(tmp_path / "rig", stores) as rig:
        # One of its own would take twenty seconds to start, and another one for the kill.
        monkeypatch.setattr(rig, "_warm", warm)
        monkeypatch.setattr(rig, "start_over", lambda: None)
        yield rig


@pytest.mark.slow
def test_a_killed_job_ends_as_an_undisturbed_one(rig: Rig) -> None:
    rig.measure(runs=1)
    # tests/runtime/test_worker.py kills one of two pods, and this all processes of the job.
    struck = rig.strike(Kill(1, "machine lost", 0.55), seed=0)
    assert struck.good, struck.line()


class SlowToStop:
    """A job that makes another update after it was struck, and its only attempt to go on."""

    key, output, returncode = "run", Path("outputs.json"), 143

    def __init__(self) -> None:
        self.done, self.process, self.started = 1, self, 0.0

    def where(self) -> str:
        return "train"

    def updates(self) -> int:
        return self.done

    def events(self) -> list[dict[str, object]]:
        return [{"phase": TRAINING, "done": done} for done in range(self.done + 1)]

    def start(self, _warm: object) -> "SlowToStop":
        self.done += 2
        return SlowToStop()

    def text(self) -> str:
        return "resuming from update 2"


def test_updates_after_the_fault_count(monkeypatch: pytest.MonkeyPatch) -> None:
    def stop_after_an_update(scene: Scene) -> str:
        scene.job.done += 1
        return ""

    job, rig = SlowToStop(), object.__new__(Rig)
    rig._folder, rig._stores, rig._disk, rig._expected = Path(), None, None, {}
    monkeypatch.setattr(rig, "_refresh", lambda: None)
    monkeypatch.setattr(rig, "_at_instant", lambda _kill: (job, job))
    monkeypatch.setattr(rig, "_warm_interpreter", lambda: None)
    monkeypatch.setattr(rig, "_succeed", lambda _attempt: None)
    monkeypatch.setattr(rig, "_gather", lambda _job: {})
    monkeypatch.setitem(STRIKES, "SIGTERM", stop_after_an_update)
    struck = rig.strike(Kill(1, "SIGTERM", 0.5), seed=0)
    assert (struck.made, struck.resumed, struck.lost) == (2, 2, 0)
    assert "resumed from update 2 of 2" in struck.line()


WRITER = """
import sys
for path in sys.stdin:
    try:
        with open(path.strip(), "ab", buffering=0) as file:
            file.write(b"x")
        print("written", flush=True)
    except OSError as error:
        print(error.strerror, flush=True)
"""


def test_without_a_mount_no_file_grows_while_the_disk_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 65534)
    disk = Disk(tmp_path / "disk")
    assert disk.kind == "RLIMIT_FSIZE"
    command = [sys.executable, "-I", "-S", "-c", WRITER]
    with subprocess.Popen(command, stdin=PIPE, stdout=PIPE, text=True, bufsize=1) as writer:
        assert writer.stdin is not None
        assert writer.stdout is not None

        def answer() -> str:
            writer.stdin.write(f"{disk.folder / 'file'}\n")
            return writer.stdout.readline().strip()

        server = SimpleNamespace(server=psutil.Process(writer.pid))
        attempt = SimpleNamespace(warm=server, processes=list)
        assert answer() == "written"
        with disk.full(attempt):
            assert answer() == "File too large"
        assert answer() == "written"
        writer.stdin.close()
    disk.close()


@pytest.mark.parametrize("end", [ValueError("full"), SystemExit("full")])
def test_a_fork_that_cannot_write_its_traceback_ends(
    end: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(_arguments: object) -> None:
        raise end

    monkeypatch.setattr(warm, "_run", run)
    with open("/dev/full", "w", buffering=1) as full:  # noqa: PTH123 - it is a device
        monkeypatch.setattr(sys, "stderr", full)
        assert warm._status_of([]) == 1
        monkeypatch.undo()
        with suppress(OSError):
            full.close()


def test_every_difference_is_listed() -> None:
    expected = {"weights": "a", "metric": "[1]", "picture": "c"}
    found = {"weights": "b", "metric": "[1]", "table": "d"}
    assert differences(expected, found) == [
        "picture: c became (absent)",
        "table: (absent) became d",
        "weights: a became b",
    ]


def test_a_kill_can_be_repeated_from_its_seed_and_number() -> None:
    kills = [random_kill(1, number) for number in range(1, 200)]
    assert kills == [random_kill(1, number) for number in range(1, 200)]
    assert {kill.kind for kill in kills} == STRIKES.keys()
    assert kills != [random_kill(2, number) for number in range(1, 200)]


def test_the_point_before_features_are_kept_matches_their_location() -> None:
    place = join(WORKSPACE, FEATURES, "fingerprint", "shard.safetensors")
    assert POINTS["before features are kept"].split()[-1] in place


@pytest.mark.parametrize("point", POINTS)
def test_every_named_point_exists(point: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from studies.crash import points

    replaced: list[str] = []
    monkeypatch.setattr(points, "_replace", lambda _owner, name, _to: replaced.append(name))
    monkeypatch.setenv(points.POINT_VARIABLE, point)
    arm()
    assert len(replaced) == 1
