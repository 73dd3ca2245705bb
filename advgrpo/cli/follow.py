"""Watching of a run on a terminal."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from advgrpo.kfp_client import KfpServer

# 128 + SIGINT, as a shell reports it.
_INTERRUPTED = 130


def follow(server: "KfpServer", run_id: str, tasks: Mapping[str, str]) -> None:
    """Watch a run until it ends; Ctrl-C ends the watching, not the run.

    Args:
        server: Server of the run.
        run_id: Id of the run.
        tasks: Label of each task, by task name.
    """
    from advgrpo.kfp_client import watch_run

    try:
        watch_run(server, run_id, tasks=tasks, report=_print)
    except KeyboardInterrupt:
        print(
            f"\nstopped watching; the run continues: {server.page(f'runs/details/{run_id}')}\n"
            f"to watch it again: advgrpo pipeline watch {run_id}; to terminate it, use its page"
        )
        # Not an error: the run itself continues.
        raise typer.Exit(_INTERRUPTED) from None


def _print(line: str) -> None:
    from datetime import datetime

    # Flushed, because a pipe or a log file would otherwise receive lines in blocks.
    print(f"{datetime.now().astimezone():%H:%M:%S} {line}", flush=True)
