"""Progress bars of a task in a terminal; elsewhere, progress is lines of its log."""

import codecs
import json
import os
import select
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from advgrpo.runtime.environment import environment
from advgrpo.telemetry.formatting import format_duration
from advgrpo.telemetry.logging import as_json
from advgrpo.telemetry.progress import AS_BARS, PROGRESS_FILE

_POLL_SECONDS = 0.2


@contextmanager
def progress_bars() -> Iterator[None]:
    """Show the progress of a task, also of its ranks, as bars below the lines of its log."""
    # A caller that named the file shows the progress itself.
    if as_json() or PROGRESS_FILE in os.environ or not sys.stderr.isatty():
        yield
        return
    sys.stderr.flush()
    reading, writing = os.pipe()
    terminal = os.dup(2)
    with (
        TemporaryDirectory() as folder,
        os.fdopen(terminal, "w", encoding=sys.stderr.encoding, errors="replace") as screen,
    ):
        file = Path(folder, "progress.jsonl")
        file.touch()
        display = _Display(Console(file=screen), file, reading)
        # The descriptor, not `sys.stderr`: ranks and libraries in C write to it, too.
        os.dup2(writing, 2)
        os.close(writing)
        try:
            with environment({PROGRESS_FILE: str(file), AS_BARS: "1"}), display.running():
                yield
        finally:
            sys.stderr.flush()
            os.dup2(terminal, 2)
            display.drain()
            os.close(reading)


class _Display:
    """Bars, fed by a progress file, below lines that are read from a pipe."""

    def __init__(self, console: Console, file: Path, pipe: int) -> None:
        self._bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            console=console,
            # Standard output may be a file.
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._tasks: dict[str, TaskID] = {}
        self._file, self._pipe = file.open(encoding="utf-8"), pipe
        self._events = self._text = ""
        # A read may end in the middle of a character.
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._stop = threading.Event()

    @contextmanager
    def running(self) -> Iterator[None]:
        thread = threading.Thread(target=self._run, name="bars", daemon=True)
        with self._bars:
            thread.start()
            try:
                yield
            finally:
                self._stop.set()
                thread.join()

    def drain(self) -> None:
        """Print what is left in the pipe, and close the file."""
        while select.select([self._pipe], [], [], 0)[0] and self._read_pipe():
            pass
        if rest := self._text + self._decoder.decode(b"", final=True):
            self._print(rest)
        self._file.close()

    def _run(self) -> None:
        while not self._stop.is_set():
            # Also the pause between two looks at the file.
            if select.select([self._pipe], [], [], _POLL_SECONDS)[0]:
                self._read_pipe()
            self._read_file()
        self._read_file()

    def _read_pipe(self) -> bool:
        data = os.read(self._pipe, 65536)
        *lines, self._text = (self._text + self._decoder.decode(data)).split("\n")
        for line in lines:
            self._print(line)
        return bool(data)

    def _print(self, line: str) -> None:
        # A closed terminal must not end the thread: the task would block on a full pipe.
        with suppress(OSError):
            self._bars.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _read_file(self) -> None:
        # The last line may still be incomplete.
        *lines, self._events = (self._events + self._file.read()).split("\n")
        for event in map(json.loads, lines):
            if "phase" in event:
                self._show(event)

    def _show(self, event: Mapping[str, Any]) -> None:
        phase, left = event["phase"], event["seconds_left"]
        if phase not in self._tasks:
            self._tasks[phase] = self._bars.add_task(phase, total=event["total"], note="")
        metrics = [f"{name} {value:.3g}" for name, value in event["metrics"].items()]
        if left and event["done"] < event["total"]:
            metrics.append(f"{format_duration(left)} left")
        self._bars.update(
            self._tasks[phase],
            completed=event["done"],
            total=event["total"],
            note=", ".join([event["unit"], *metrics]),
        )
