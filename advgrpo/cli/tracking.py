"""`advgrpo tracking`: upload records that wait for MLflow."""

from pathlib import Path
from typing import Annotated

import typer

from advgrpo.cli.options import local_path

app = typer.Typer(help="Upload records that wait for MLflow.", no_args_is_help=True)


@app.command()
def send(
    folder: Annotated[
        Path | None,
        typer.Option(
            "--folder", help="Outbox. Default: the one in the cache.", callback=local_path
        ),
    ] = None,
) -> None:
    """Upload what tasks recorded while MLflow was unavailable."""
    from advgrpo.runtime.task_context import outbox
    from advgrpo.tracking.address import require_tracking_uri
    from advgrpo.tracking.uploader import send_outbox

    tracking_uri = require_tracking_uri("there is no server to send the records to")
    # Not the option's default: the location of the cache depends on the environment.
    send_outbox(folder or outbox(), tracking_uri)
    print("all records are uploaded")
