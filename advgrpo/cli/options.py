"""Options that several commands share, so that they are spelled and described once."""

from pathlib import Path
from typing import Annotated

import typer

Preset = Annotated[
    str,
    typer.Option("--preset", help="Name of a shipped preset, or path of a YAML file."),
]
Overrides = Annotated[
    list[str],
    typer.Option("--set", metavar="KEY=VALUE", help="Change a setting; may be repeated."),
]
Workspace = Annotated[
    str,
    typer.Option(
        "--workspace",
        help="Folder or s3:// location that keeps results and the state of what is not finished.",
    ),
]
Output = Annotated[
    Path | None,
    typer.Option("--output", help="Folder that gets a copy of the result."),
]
Processes = Annotated[
    int,
    typer.Option("--processes", min=1, help="Processes; on GPUs, one each."),
]
ReferenceImages = Annotated[
    str,
    typer.Option("--reference-images", help="Folder or s3:// location of reference images."),
]
Discriminator = Annotated[
    str,
    typer.Option("--discriminator", help="Folder or s3:// location of a discriminator."),
]
Trained = Annotated[
    str,
    typer.Option("--trained", help="Folder or s3:// location of a training's result."),
]
ParentRun = Annotated[
    str,
    typer.Option("--parent-run", help="MLflow run to nest in; without it, a run of its own."),
]

DEFAULT_PRESET = "pocket"
DEFAULT_WORKSPACE = "workspace"
