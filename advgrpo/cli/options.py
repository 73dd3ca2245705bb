"""Options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer


def local_path(path: Path | None) -> Path | None:
    """Refuse a URI where only a path on this machine can be used; a callback of options.

    Raises:
        ConfigError: If it is one.
    """
    if path is None:
        return None
    from advgrpo.config.base import find_malformed
    from advgrpo.errors import ConfigError

    # `Path` has merged the slashes of s3://bucket to s3:/bucket, which would be a local folder.
    if problem := find_malformed(str(path)):
        raise ConfigError(
            f"{str(path)!r} is not a path on this machine: {problem}",
            repair="use a local path; --workspace and other locations may be s3:// ones",
        )
    return path


Preset = Annotated[
    str,
    typer.Option("--preset", help="Name of a packaged preset, or path of a YAML file."),
]
Overrides = Annotated[
    list[str],
    typer.Option("--set", metavar="KEY=VALUE", help="Override a setting; may be repeated."),
]
Workspace = Annotated[
    str,
    typer.Option(
        "--workspace",
        help="Folder or s3:// location for results and checkpoints; a repeated command resumes "
        "from it.",
    ),
]
Output = Annotated[
    Path | None,
    typer.Option("--output", help="Folder for a copy of the result.", callback=local_path),
]
Processes = Annotated[
    int,
    typer.Option("--processes", min=1, help="Number of processes; one per GPU."),
]
RunKey = Annotated[
    str,
    typer.Option("--run-key", help="Key of the MLflow run to resume. Default: a new run."),
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
    typer.Option("--trained", help="Folder or s3:// location of a training result."),
]
ParentRun = Annotated[
    str,
    typer.Option("--parent-run", help="Id of the MLflow run to nest in. Default: none."),
]

# The only preset without required settings; it needs neither files nor a GPU.
DEFAULT_PRESET = "pocket"
# A folder of this machine: `advgrpo submit` has no default, since pods need an s3:// location.
DEFAULT_WORKSPACE = "workspace"

PipelineFile = Annotated[
    Path | None,
    typer.Option(
        "--pipeline", help="Compiled pipeline. Default: the packaged one.", callback=local_path
    ),
]
PipelineName = Annotated[
    str, typer.Option("--pipeline-name", help="Name of the pipeline on the server.")
]
LauncherImage = Annotated[
    str,
    typer.Option(
        "--launcher-image",
        envvar="ADVGRPO_LAUNCHER_IMAGE",
        help="Image of the tasks that launch jobs. Default: that of the compiled pipeline.",
    ),
]
TrainerImage = Annotated[
    str,
    typer.Option(
        "--trainer-image",
        envvar="ADVGRPO_TRAINER_IMAGE",
        help="Image of the tasks that need all of advgrpo. Default: that of the compiled pipeline.",
    ),
]

DEFAULT_PIPELINE_NAME = "adversarial-grpo"
