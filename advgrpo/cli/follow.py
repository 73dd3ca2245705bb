"""Follow a run on a terminal."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from advgrpo.kfp_client import KfpServer

_INTERRUPTED = 130


def follow(server: "KfpServer", run_id: str, tasks: Mapping[str, str]) -> None:
    """Follow a run to its end; Ctrl-C ends the following, not the run.

    Args:
        server: Where it runs.
        run_id: The run.
        tasks: What to call each task, by the task's name.
    """
    from advgrpo.kfp_client import watch_run

    try:
        watch_run(server, run_id, tasks=tasks, tell=_print)
    except KeyboardInterrupt:
        print(
            f"\nno longer watched; the run goes on: {server.page(f'runs/details/{run_id}')}\n"
            f"advgrpo pipeline watch {run_id} follows it again, and its page can end it"
        )
        raise typer.Exit(_INTERRUPTED) from None


def _print(line: str) -> None:
    from datetime import datetime

    print(f"{datetime.now().astimezone():%H:%M:%S} {line}", flush=True)
