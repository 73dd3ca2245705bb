"""`advgrpo status`: status of a run, read from its workspace."""

from typing import Annotated

import typer

Run = Annotated[
    str,
    typer.Argument(
        help="Id or name of the MLflow run, or the workspace: a folder or s3:// location."
    ),
]


def status(
    run: Run,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Print the status of a run: task, progress, last checkpoint, problems and repairs.

    Needs access to the workspace, not to the cluster.
    """
    import json
    import os
    from dataclasses import asdict

    from advgrpo.runtime.run_status_collection import run_status
    from advgrpo.runtime.run_status_text import status_lines
    from advgrpo.tracking.address import TRACKING_URI

    found = run_status(run, tracking_uri=os.environ.get(TRACKING_URI, ""))
    if as_json:
        # Times are the only values that `json` cannot write.
        print(json.dumps(asdict(found), default=lambda moment: moment.isoformat(), indent=1))
    else:
        print("\n".join(status_lines(found)))
