"""`advgrpo tracking`: records that MLflow has not got yet."""

import os
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
    from advgrpo.errors import ConfigError
    from advgrpo.runtime.task_context import TRACKING_URI, outbox
    from advgrpo.tracking.uploader import send_outbox

    tracking_uri = os.environ.get(TRACKING_URI)
    if not tracking_uri:
        raise ConfigError(
            "there is no MLflow server to send to", repair=f"set {TRACKING_URI} to its address"
        )
    send_outbox(folder or outbox(), tracking_uri)
    print("everything is sent")
