"""Run a job, strike it, let it go on, and compare."""

import random
import re
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Self

from mlflow import MlflowClient

from advgrpo.demo.servers import EmbeddedServers
from advgrpo.storage import delete
from studies.crash.disk import Disk
from studies.crash.job import (
    TRAINING,
    UPDATES,
    UPDATES_BETWEEN_CHECKPOINTS,
    WORKSPACE,
    Attempt,
    Job,
    Warm,
)
from studies.crash.outcome import Outcome, differences, gather
from studies.crash.strikes import PATIENCE_SECONDS, STRIKES, TORN, Scene

_KILLS_PER_INTERPRETER = 20
"""Another interpreter hashes texts in another order, as each process of a real job does."""

_TRIES = 4
_UPDATES_OF_TWO_CHECKPOINTS = 2 * UPDATES_BETWEEN_CHECKPOINTS + 1
_RESUMED = re.compile(r"resuming from update (\d+)")


@dataclass(frozen=True)
class Kill:
    """What is done to a job, and when."""

    number: int
    kind: str
    fraction: float
    """Instant as a share of an undisturbed run's duration."""

    point: str = ""
    """Named point at which it falls instead; empty for none."""


@dataclass(frozen=True)
class Struck:
    """What came of a kill."""

    kill: Kill
    instant: float = 0.0
    """Seconds after the job's start."""

    where: str = ""
    """How far the job had come."""

    made: int = 0
    """Updates that were made before it went on."""

    resumed: int | None = None
    """Update that training went on from, 0 if it began anew; None if it was over."""

    lost: int = 0
    """Updates that were made again."""

    lost_beyond: int = 0
    """Of these, those that the last checkpoint should have saved."""

    differences: Sequence[str] = ()
    seconds: float = 0.0
    logs: str = ""

    @property
    def good(self) -> bool:
        """Whether nothing tells that there was a kill."""
        return not self.differences and self.lost_beyond == 0

    def line(self) -> str:
        """Tell it in a line."""
        kill = self.kill
        when = f"at {kill.point!r}" if kill.point else f"at {self.instant:.2f} s"
        resumed = f", resumed from update {self.resumed} of {self.made}" if self.resumed else ""
        beyond = f", LOST {self.lost_beyond} UPDATES" if self.lost_beyond else ""
        end = "equal" if not self.differences else f"DIFFERS: {self.differences[0]}"
        return (
            f"{kill.number:3} {kill.kind:16} {when} ({self.where}){resumed}{beyond}: {end} "
            f"[{self.seconds:.1f} s]"
        )


def random_kill(seed: int, number: int) -> Kill:
    """Draw a kill; it depends on nothing but its arguments."""
    chance = random.Random(f"{seed}/{number}")
    return Kill(number, chance.choice(list(STRIKES)), chance.random())


class Rig:
    """Runs jobs one after the other.

    Args:
        folder: For everything.
        stores: Servers that the jobs use.
    """

    def __init__(self, folder: Path, stores: EmbeddedServers) -> None:
        self._folder, self._stores = folder, stores
        self._numbers = count()
        self._warm: Warm | None = None
        self._kills = 0
        self._disk = Disk(folder / "disk")
        self._expected: Outcome = {}
        self._duration = 0.0
        self._checkpoints = (0.0, 0.0)
        """Seconds until there are two checkpoints, and until the last update."""

    def measure(self, runs: int = 2) -> float:
        """Run the job undisturbed, to know its duration and what it ends with.

        Args:
            runs: How often; the first one warms up caches.

        Returns:
            Seconds of the last run.

        Raises:
            RuntimeError: If they do not end alike, or one fails.
        """
        outcomes = [self._undisturbed() for _ in range(runs)]
        self._expected = outcomes[-1]
        if told := differences(outcomes[0], outcomes[-1]):
            raise RuntimeError("undisturbed runs differ: " + "; ".join(told))
        return self._duration

    def strike(self, kill: Kill, seed: int) -> Struck:
        """Strike a job, let it go on, and compare what it ends with."""
        start = time.monotonic()
        self._refresh()
        job, struck = self._at_instant(kill)
        attempt = struck
        instant = time.monotonic() - attempt.started
        where, made, told_before = job.where(), 0, 0
        chance = random.Random(f"{seed}/{kill.number}/how")
        told = []
        resumed = None
        try:
            if wrong := STRIKES[kill.kind](Scene(job, attempt, self._stores, self._disk, chance)):
                told.append(wrong)
            # Of some strikes a job goes on for a while.
            made, told_before = job.updates(), len(job.events())
            if attempt.process.returncode != 0:
                attempt = job.start(self._warm_interpreter())
                self._succeed(attempt)
            told += differences(self._expected, self._gather(job))
        except (RuntimeError, TimeoutError) as error:
            attempt.kill()
            told.append(str(error))
        trained = any(event.get("phase") == TRAINING for event in job.events()[told_before:])
        if attempt is not struck and trained:
            found = _RESUMED.search(attempt.text())
            resumed = int(found[1]) if found else 0
            # Of its last update it may not have told, for instance on a full disk.
            made = max(made, resumed)
        again = 0 if resumed is None else made - resumed
        allowed = UPDATES_BETWEEN_CHECKPOINTS * (2 if kill.kind == TORN else 1)
        return Struck(
            kill=kill,
            instant=round(instant, 2),
            where=where,
            made=made,
            resumed=resumed,
            lost=max(0, again),
            lost_beyond=max(0, again - allowed),
            differences=told,
            seconds=round(time.monotonic() - start, 1),
            logs=str(self._folder / job.key),
        )

    def _at_instant(self, kill: Kill) -> tuple[Job, Attempt]:
        """Start a job and wait for the instant of a kill."""
        # A checkpoint can be torn once there is another one before it.
        first, last = self._checkpoints if kill.kind == TORN else (0.0, self._duration)
        instant = first + kill.fraction * (last - first)
        updates = _UPDATES_OF_TWO_CHECKPOINTS if kill.kind == TORN else 0
        for _ in range(_TRIES):
            job = self._new_job()
            attempt = job.start(self._warm_interpreter(), point=kill.point)
            deadline = attempt.started + (PATIENCE_SECONDS if kill.point else instant)
            while (
                attempt.running
                and (time.monotonic() < deadline or job.updates() < updates)
                and not job.mark.exists()
            ):
                time.sleep(0.005)
            if attempt.running and (job.mark.exists() or not kill.point):
                return job, attempt
            attempt.kill()
            # This run was faster than the one that was measured.
            instant *= 0.7
        raise RuntimeError(f"kill {kill.number}: the job was over, or never came to its point")

    def _undisturbed(self) -> Outcome:
        job = self._new_job()
        attempt = job.start(self._warm_interpreter())
        between = []
        for updates in (_UPDATES_OF_TWO_CHECKPOINTS, UPDATES):
            while attempt.running and job.updates() < updates:
                time.sleep(0.02)
            between.append(time.monotonic() - attempt.started)
        self._checkpoints = (between[0], between[1])
        self._succeed(attempt)
        self._duration = time.monotonic() - attempt.started
        return self._gather(job)

    def _succeed(self, attempt: Attempt) -> None:
        status = attempt.wait(PATIENCE_SECONDS)
        if status != 0:
            lines = [line for line in attempt.text().splitlines() if line.strip()]
            raise RuntimeError(f"it ended with status {status}: " + " | ".join(lines[-6:]))

    def _new_job(self) -> Job:
        delete(WORKSPACE)
        for left in self._disk.folder.iterdir():
            shutil.rmtree(left)
        key = f"run-{next(self._numbers)}"
        return Job(
            self._disk.folder / "machine",
            self._folder / key,
            key,
            self._stores.environment(),
        )

    def _refresh(self) -> None:
        """Take another interpreter now and then."""
        self._kills += 1
        if self._kills % _KILLS_PER_INTERPRETER == 1:
            self.start_over()

    def start_over(self) -> None:
        """End whatever runs; the next job gets another interpreter."""
        if self._warm is not None:
            # Its forks end with it.
            self._warm.close()
            self._warm = None

    def _warm_interpreter(self) -> Warm:
        if self._warm is None:
            self._warm = Warm(self._folder / f"warm-{next(self._numbers)}")
        return self._warm

    def _gather(self, job: Job) -> Outcome:
        return gather(MlflowClient(self._stores.tracking_uri), job.key, job.output)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.start_over()
        self._disk.close()
