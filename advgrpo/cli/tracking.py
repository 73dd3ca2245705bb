"""`advgrpo tracking`: records that MLflow has not got yet."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Records that MLflow has not got yet.", no_args_is_help=True)


@app.command()
def send(
    folder: Annotated[
        Path | None, typer.Option("--folder", help="Outbox; else the one in the cache.")
    ] = None,
) -> None:
    """Send what tasks recorded while MLflow was not available."""
    from advgrpo.runtime.task_context import outbox
    from advgrpo.tracking.address import require_tracking_uri
    from advgrpo.tracking.uploader import send_outbox

    tracking_uri = require_tracking_uri("there is no server to send the records to")
    send_outbox(folder or outbox(), tracking_uri)
    print("everything is sent")
