"""`advgrpo demo` and `advgrpo demo-ui`."""

from pathlib import Path
from typing import Annotated

import typer

from advgrpo.cli.options import DEFAULT_PRESET, Overrides, Preset

Folder = Annotated[
    Path, typer.Option("--folder", help="All that the demo writes goes into this folder.")
]
Port = Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")]

DEFAULT_FOLDER = Path(".demo")


def demo(
    folder: Folder = DEFAULT_FOLDER,
    preset: Preset = DEFAULT_PRESET,
    overrides: Overrides = [],  # noqa: B006 - typer copies it
    processes: Annotated[int, typer.Option("--processes", min=1)] = 2,
) -> None:
    """Post-train the pocket model end to end, over stores of its own."""
    from rich.console import Console

    from advgrpo.demo.run import run_demo

    run_demo(folder, preset=preset, overrides=overrides, processes=processes, console=Console())


def demo_ui(folder: Folder = DEFAULT_FOLDER, mlflow_port: Port = 0, s3_port: Port = 0) -> None:
    """Serve MLflow and the S3 store over what the demo left."""
    from rich.console import Console

    from advgrpo.demo.serve import serve_stores

    serve_stores(folder, console=Console(), mlflow_port=mlflow_port, s3_port=s3_port)
