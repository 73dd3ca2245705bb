"""`advgrpo demo` and `advgrpo demo-ui`."""

from pathlib import Path
from typing import Annotated

import typer

from advgrpo.cli.options import Overrides, Preset, Processes, local_path

Folder = Annotated[
    Path,
    typer.Option(
        "--folder", help="Folder of everything that the demo writes.", callback=local_path
    ),
]
Port = Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 uses a free one.")]

DEFAULT_FOLDER = Path(".demo")
# Nearer than the others' default in less time (docs/experiments.md).
DEMO_PRESET = "pocket_nft"


def demo(
    folder: Folder = DEFAULT_FOLDER,
    preset: Preset = DEMO_PRESET,
    overrides: Overrides = [],
    # Two, so that the demo covers what is distributed over ranks.
    processes: Processes = 2,
) -> None:
    """Run the whole pipeline on the pocket model, with its own S3 and MLflow servers."""
    from rich.console import Console

    from advgrpo.demo.run import run_demo

    run_demo(folder, preset=preset, overrides=overrides, processes=processes, console=Console())


def demo_ui(folder: Folder = DEFAULT_FOLDER, mlflow_port: Port = 0, s3_port: Port = 0) -> None:
    """Serve the MLflow and S3 data of a finished demo."""
    from rich.console import Console

    from advgrpo.demo.serve import serve

    serve(folder, console=Console(), mlflow_port=mlflow_port, s3_port=s3_port)
