"""`advgrpo cluster`: maintenance of jobs on a cluster."""

from typing import Annotated

import typer

from advgrpo.telemetry.logging import report

app = typer.Typer(help="Maintain jobs on a cluster.", no_args_is_help=True)


@app.callback()
def start() -> None:
    """Make Typer require the name of the only command."""


@app.command()
def janitor(
    namespace: Annotated[
        str, typer.Option("--namespace", help="Namespace of the jobs. Default: the pod's.")
    ] = "",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the jobs to delete, and delete none.")
    ] = False,
) -> None:
    """Delete advgrpo jobs whose Workflow has ended or was deleted; print a summary as JSON."""
    import json
    from contextlib import closing
    from dataclasses import asdict

    from advgrpo.cluster.connection import connect
    from advgrpo.cluster.janitor import clean
    from advgrpo.errors import ClusterError

    with closing(connect(namespace)) as api:
        done = clean(api, dry_run=dry_run)
    facts = asdict(done)
    # Before the error, so that the counts of a partly failed pass are logged.
    report(json.dumps(facts), "janitor_done", **facts)
    if done.failed:
        raise ClusterError(
            f"jobs that could not be deleted: {', '.join(done.failed)}",
            repair="fix the causes that the log names; the next run retries",
        )
