"""Test rig: run a job, inject a fault, resume the job, and compare."""

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
from studies.crash.interpreter import Warm
from studies.crash.job import (
    TRAINING,
    UPDATES,
    UPDATES_BETWEEN_CHECKPOINTS,
    WORKSPACE,
    Attempt,
    Job,
)
from studies.crash.outcome import Outcome, differences, gather
from studies.crash.strikes import PATIENCE_SECONDS, STRIKES, TORN, Scene

_KILLS_PER_INTERPRETER = 20
"""Each interpreter has its own hash seed, as each process of a real job has."""

_TRIES = 4
_UPDATES_OF_TWO_CHECKPOINTS = 2 * UPDATES_BETWEEN_CHECKPOINTS + 1
_RESUMED = re.compile(r"resuming from update (\d+)")


@dataclass(frozen=True)
class Kill:
    """A fault and its instant."""

    number: int
    kind: str
    fraction: float
    """Instant as a fraction of an undisturbed run's duration."""

    point: str = ""
    """Named point of the code, instead of an instant; empty for none."""


@dataclass(frozen=True)
class Struck:
    """Result of a fault."""

    kill: Kill
    instant: float = 0.0
    """Seconds after the job's start."""

    where: str = ""
    """Progress of the job at that instant."""

    made: int = 0
    """Updates that were completed before it was resumed."""

    resumed: int | None = None
    """Update that training resumed from, 0 if it started over; None if it had finished."""

    lost: int = 0
    """Updates that were repeated."""

    lost_beyond: int = 0
    """Repeated updates that the last checkpoint should have saved."""

    differences: Sequence[str] = ()
    seconds: float = 0.0
    logs: str = ""

    @property
    def good(self) -> bool:
        """Whether the result equals that of an undisturbed run."""
        return not self.differences and self.lost_beyond == 0

    def line(self) -> str:
        """Return it as one line."""
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
    """Return a random fault, which depends on the arguments alone."""
    chance = random.Random(f"{seed}/{number}")
    return Kill(number, chance.choice(list(STRIKES)), chance.random())


class Rig:
    """Runner of jobs, one after the other.

    Args:
        folder: Folder for all files.
        stores: Servers of the jobs.
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
        """Seconds until the second checkpoint, and until the last update."""

    def measure(self, runs: int = 2) -> float:
        """Run the job undisturbed, for its duration and results.

        Args:
            runs: Number of runs; the first one warms up caches.

        Returns:
            Seconds of the last run.

        Raises:
            RuntimeError: If their results differ, or one fails.
        """
        outcomes = [self._run_undisturbed() for _ in range(runs)]
        self._expected = outcomes[-1]
        if lines := differences(outcomes[0], outcomes[-1]):
            raise RuntimeError("undisturbed runs differ: " + "; ".join(lines))
        return self._duration

    def strike(self, kill: Kill, seed: int) -> Struck:
        """Inject a fault into a job, resume it, and compare its results."""
        start = time.monotonic()
        self._refresh()
        job, struck = self._at_instant(kill)
        attempt = struck
        instant = time.monotonic() - attempt.started
        where, made, events_before = job.where(), 0, 0
        chance = random.Random(f"{seed}/{kill.number}/how")
        faults = []
        resumed = None
        try:
            if wrong := STRIKES[kill.kind](Scene(job, attempt, self._stores, self._disk, chance)):
                faults.append(wrong)
            # After some faults the job runs on for a while.
            made, events_before = job.updates(), len(job.events())
            if attempt.process.returncode != 0:
                attempt = job.start(self._warm_interpreter())
                self._succeed(attempt)
            faults += differences(self._expected, self._gather(job))
        except (RuntimeError, TimeoutError) as error:
            attempt.kill()
            faults.append(str(error))
        trained = any(event.get("phase") == TRAINING for event in job.events()[events_before:])
        if attempt is not struck and trained:
            found = _RESUMED.search(attempt.text())
            resumed = int(found[1]) if found else 0
            # The event of its last update may be missing, for instance on a full disk.
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
            differences=faults,
            seconds=round(time.monotonic() - start, 1),
            logs=str(self._folder / job.key),
        )

    def _at_instant(self, kill: Kill) -> tuple[Job, Attempt]:
        """Start a job and wait for the instant of a fault."""
        # Without an earlier checkpoint, a damaged one leaves nothing to resume from.
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

    def _run_undisturbed(self) -> Outcome:
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
        """Replace the interpreter after a number of faults."""
        self._kills += 1
        if self._kills % _KILLS_PER_INTERPRETER == 1:
            self.start_over()

    def start_over(self) -> None:
        """End all processes; the next job gets another interpreter."""
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
