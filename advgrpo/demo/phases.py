"""What of a demo is shown and timed, told from the events that its tasks write."""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from advgrpo.runtime.pipeline_tasks import PIPELINE_TASKS

TITLES = {"stores": "Stores"} | {task.name: task.title for task in PIPELINE_TASKS}
"""Task -> title, in order."""

KEYS = {task: title.lower().replace(" ", "_").replace("-", "_") for task, title in TITLES.items()}
"""Task -> name in `seconds_by_phase`."""


@dataclass(frozen=True)
class Step:
    """How far a phase has come."""

    doing: str
    done: int
    total: int
    unit: str
    seconds_left: float | None
    metrics: Mapping[str, float]


class ProgressReader:
    """Reads events as tasks append them.

    Args:
        path: The file that tasks append to.
        on_start: Called with the task that started.
        on_step: Called with the task and how far it has come.
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
        self._file = path.open("a+", encoding="utf-8")
        self._file.seek(0)
        self._on_start, self._on_step, self._on_finish = on_start, on_step, on_finish
        self._rest = ""
        self._task = ""
        self._process = 0

    def read(self) -> None:
        """Handle the events that came since the last time."""
        lines = (self._rest + self._file.read()).split("\n")
        # A writer may be in the middle of the last line.
        self._rest = lines.pop()
        for line in lines:
            self._handle(json.loads(line))

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _handle(self, event: Mapping[str, Any]) -> None:
        if "phase" in event:
            self._on_step(
                self._task,
                Step(
                    doing=event["phase"],
                    done=event["done"],
                    total=event["total"],
                    unit=event["unit"],
                    seconds_left=event["seconds_left"],
                    metrics=event["metrics"],
                ),
            )
        elif event["state"] == "started":
            # Ranks tell of the task too, but it is the process that started it whose word counts.
            if event["task"] != self._task:
                self._task, self._process = event["task"], event["process"]
                self._on_start(self._task)
        elif event["process"] == self._process:
            self._on_finish(self._task)


class PhaseClock:
    """Times phases that follow each other; a phase begins when the one before it ends.

    Args:
        seconds: Seconds by phase, of earlier attempts at first; counted up in place.
    """

    def __init__(self, seconds: dict[str, float]) -> None:
        self._since = time.monotonic()
        self.seconds = seconds

    def finish(self, task: str) -> float:
        """End a phase.

        Returns:
            Its seconds, over all attempts.
        """
        now = time.monotonic()
        self.seconds[KEYS[task]] = self.seconds.get(KEYS[task], 0.0) + now - self._since
        self._since = now
        return self.seconds[KEYS[task]]
