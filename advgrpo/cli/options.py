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
RunKey = Annotated[
    str,
    typer.Option("--run-key", help="Key of an MLflow run to take up again."),
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

Endpoint = Annotated[
    str,
    typer.Option(
        "--endpoint",
        help="Address of Kubeflow Pipelines; else KF_PIPELINES_ENDPOINT.",
        show_default=False,
    ),
]
Namespace = Annotated[
    str,
    typer.Option("--namespace", help="Your namespace, where Kubeflow has many users."),
]
Token = Annotated[
    str,
    typer.Option(
        "--token",
        "--existing-token",
        envvar="ADVGRPO_KFP_TOKEN",
        help="Bearer token; as a variable it is not seen in the list of processes.",
    ),
]
TokenFile = Annotated[
    Path | None,
    typer.Option("--token-file", help="File with a bearer token; else KF_PIPELINES_SA_TOKEN_PATH."),
]
Cookies = Annotated[
    str,
    typer.Option(
        "--cookies",
        envvar="ADVGRPO_KFP_COOKIES",
        help="Cookies of a browser that is logged in, for instance authservice_session=...",
    ),
]
CaFile = Annotated[
    Path | None,
    typer.Option("--ca", help="File with the certificates of the server's authority."),
]
PipelineFile = Annotated[
    Path | None,
    typer.Option("--pipeline", help="Compiled pipeline; else the one that advgrpo comes with."),
]
PipelineName = Annotated[
    str, typer.Option("--pipeline-name", help="What Kubeflow Pipelines calls the pipeline.")
]
LauncherImage = Annotated[
    str,
    typer.Option(
        "--launcher-image",
        envvar="ADVGRPO_LAUNCHER_IMAGE",
        help="Image for the tasks that start jobs.",
    ),
]
TrainerImage = Annotated[
    str,
    typer.Option(
        "--trainer-image",
        envvar="ADVGRPO_TRAINER_IMAGE",
        help="Image for the tasks that need all of advgrpo.",
    ),
]

DEFAULT_PIPELINE_NAME = "adversarial-grpo"
