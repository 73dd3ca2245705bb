"""Progress of the demo: bars on a terminal, lines elsewhere."""

import time
from collections.abc import Collection

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from advgrpo.demo.phases import TITLES, Step
from advgrpo.telemetry.formatting import format_duration

_BAR_WIDTH = 24
_SECONDS_BETWEEN_LINES = 10.0


def describe(step: Step) -> str:
    """Return the progress and metrics of a phase as text."""
    metrics = "".join(f", {name} {value:.3g}" for name, value in step.metrics.items())
    return f"{step.activity}: {step.done}/{step.total} {step.unit}{metrics}"


class Lines:
    """Lines: one when a phase starts or ends, and one every few seconds in between."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._last = 0.0

    def start(self, task: str) -> None:
        self._print(f"{TITLES[task]} ...")

    def step(self, task: str, step: Step) -> None:  # noqa: ARG002 - the step names its activity
        now = time.monotonic()
        # The last step is always printed, however soon it follows.
        if step.done < step.total and now - self._last < _SECONDS_BETWEEN_LINES:
            return
        self._last = now
        left = f", {format_duration(step.seconds_left)} left" if step.seconds_left else ""
        self._print(f"  {describe(step)}{left}")

    def finish(self, task: str, seconds: float) -> None:
        self._print(f"{TITLES[task]}: done in {format_duration(seconds)}")

    def _print(self, text: str) -> None:
        # Brackets in texts are not markup, and lines are not wrapped: a log has no width.
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


class Bars:
    """Rows: one per phase, with a bar for the running one.

    Args:
        tasks: The phases, in order.
    """

    def __init__(self, tasks: Collection[str] = TITLES) -> None:
        self._tasks = tasks
        self._steps: dict[str, Step] = {}
        self._running = ""
        self._seconds: dict[str, float] = {}
        # One object for all frames: a new one would restart its animation.
        self._spinner = Spinner("dots")

    def start(self, task: str) -> None:
        self._running = task

    def step(self, task: str, step: Step) -> None:
        self._steps[task] = step

    def finish(self, task: str, seconds: float) -> None:
        self._seconds[task] = seconds
        if self._running == task:
            self._running = ""

    def __rich__(self) -> Group:
        """Render all rows."""
        rows = Table.grid(padding=(0, 1))
        for _ in range(4):
            rows.add_column(no_wrap=True)
        note = Text()
        # All phases have a row from the start, so that the display does not grow.
        for task in self._tasks:
            title = TITLES[task]
            step = self._steps.get(task)
            if task == self._running:
                rows.add_row(self._spinner, f"[bold]{title}", _bar(step), _left(step))
                if step is not None:
                    # `Text`, because brackets in an activity must not be read as markup.
                    note = Text(describe(step), style="dim", overflow="ellipsis", no_wrap=True)
            elif task in self._seconds:
                rows.add_row("[green]✓", title, "", format_duration(self._seconds[task]))
            else:
                rows.add_row("", f"[dim]{escape(title)}", "", "")
        return Group(rows, note)


def live(bars: Bars, console: Console) -> Live:
    """Return a context that keeps bars on the screen."""
    return Live(bars, console=console, refresh_per_second=8)


def _bar(step: Step | None) -> ProgressBar:
    if step is None:
        return ProgressBar(total=None, width=_BAR_WIDTH, pulse=True)
    return ProgressBar(total=step.total, completed=step.done, width=_BAR_WIDTH)


def _left(step: Step | None) -> str:
    if step is None or step.seconds_left is None:
        return ""
    return f"{format_duration(step.seconds_left)} left"
