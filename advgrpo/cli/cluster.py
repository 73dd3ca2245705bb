"""`advgrpo cluster`: what is done on a cluster besides pipelines."""

from typing import Annotated

import typer

from advgrpo.telemetry.logging import report

app = typer.Typer(help="Look after jobs on a cluster.", no_args_is_help=True)


@app.callback()
def start() -> None:
    """Make the command's name part of the command line, though there is one only."""


@app.command()
def janitor(
    namespace: Annotated[
        str, typer.Option("--namespace", help="Whose jobs; without it, this pod's own.")
    ] = "",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say which jobs would be deleted.")
    ] = False,
) -> None:
    """Delete jobs of ours whose Workflow has ended or is gone; ends with a line of JSON."""
    import json
    from contextlib import closing
    from dataclasses import asdict

    from advgrpo.cluster.api_connection import connect
    from advgrpo.cluster.janitor import clean
    from advgrpo.errors import ClusterError

    with closing(connect(namespace)) as api:
        done = clean(api, dry_run=dry_run)
    facts = asdict(done)
    report(json.dumps(facts), "janitor_done", **facts)
    if done.failed:
        raise ClusterError(
            f"jobs that could not be deleted: {', '.join(done.failed)}",
            repair="the log says why; the next run tries again",
        )
