"""Phases of the demo, read from the progress events of its tasks."""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from advgrpo.runtime.pipeline_tasks import PIPELINE_TASKS

SERVERS = "servers"
TITLES = {SERVERS: "Servers"} | {task.name: task.title for task in PIPELINE_TASKS}
"""Task -> title, in order."""

KEYS = {task: title.lower().replace(" ", "_").replace("-", "_") for task, title in TITLES.items()}
"""Task -> name in `seconds_by_phase`."""


@dataclass(frozen=True)
class Step:
    """Progress of a phase."""

    activity: str
    done: int
    total: int
    unit: str
    seconds_left: float | None
    metrics: Mapping[str, float]


class Display(Protocol):
    """Display of the demo's phases."""

    def start(self, task: str) -> None:
        """Show that a phase has started."""
        ...

    def step(self, task: str, step: Step) -> None:
        """Show the progress of a phase."""
        ...

    def finish(self, task: str, seconds: float) -> None:
        """Show that a phase has ended."""
        ...


class ProgressReader:
    """A reader of the events that tasks append to a file.

    Args:
        path: The file.
        on_start: Called with the task that started.
        on_step: Called with the task and its progress.
        on_finish: Called with the task that finished.
    """

    def __init__(
        self,
        path: Path,
        *,
        on_start: Callable[[str], None],
        on_step: Callable[[str, Step], None],
        on_finish: Callable[[str], None],
    ) -> None:
        # Creates the file if no task has written to it yet.
        self._file = path.open("a+", encoding="utf-8")
        self._file.seek(0)
        self._on_start, self._on_step, self._on_finish = on_start, on_step, on_finish
        self._rest = ""
        self._task = ""
        self._process = 0

    def read(self) -> None:
        """Handle the events since the last call."""
        lines = (self._rest + self._file.read()).split("\n")
        # The last line may still be incomplete.
        self._rest = lines.pop()
        for line in lines:
            self._handle(json.loads(line))

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _handle(self, event: Mapping[str, Any]) -> None:
        if "phase" in event:
            # Events of progress do not name their task: it is the last one that started.
            self._on_step(
                self._task,
                Step(
                    activity=event["phase"],
                    done=event["done"],
                    total=event["total"],
                    unit=event["unit"],
                    seconds_left=event["seconds_left"],
                    metrics=event["metrics"],
                ),
            )
        elif event["state"] == "started":
            # Ranks write these events too; the process that started the task decides.
            if event["task"] != self._task:
                self._task, self._process = event["task"], event["process"]
                self._on_start(self._task)
        elif event["process"] == self._process:
            self._on_finish(self._task)


class PhaseClock:
    """A clock of consecutive phases: each starts when the one before it ends.

    Args:
        seconds: Seconds by phase, initially those of earlier attempts; updated in place.
    """

    def __init__(self, seconds: dict[str, float]) -> None:
        # Monotonic, so that a change of the system's clock does not change durations.
        self._since = time.monotonic()
        self.seconds = seconds

    def finish(self, task: str) -> float:
        """End a phase.

        Returns:
            Its duration over all attempts, in seconds.
        """
        now = time.monotonic()
        self.seconds[KEYS[task]] = self.seconds.get(KEYS[task], 0.0) + now - self._since
        self._since = now
        return self.seconds[KEYS[task]]
