"""The command `advgrpo status`, which needs no access to the cluster."""

from typing import Annotated

import typer

Run = Annotated[
    str,
    typer.Argument(
        help="Id or name of its MLflow run, or its workspace: an s3:// location or a folder."
    ),
]


def status(
    run: Run,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Print the status of a run: task, progress, last checkpoint, error and repair."""
    import json
    import os
    from dataclasses import asdict

    from advgrpo.runtime.run_status_collection import run_status
    from advgrpo.runtime.run_status_text import status_lines
    from advgrpo.tracking.address import TRACKING_URI

    found = run_status(run, tracking_uri=os.environ.get(TRACKING_URI, ""))
    if as_json:
        print(json.dumps(asdict(found), default=lambda moment: moment.isoformat(), indent=1))
    else:
        print("\n".join(status_lines(found)))
