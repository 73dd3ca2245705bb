"""`advgrpo submit`: start a run on a cluster, once or again and again."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from advgrpo.cli.follow import follow
from advgrpo.cli.kfp_access import kfp_server, pipeline_document
from advgrpo.cli.options import (
    DEFAULT_PIPELINE_NAME,
    DEFAULT_PRESET,
    CaFile,
    Cookies,
    Endpoint,
    LauncherImage,
    Namespace,
    Overrides,
    PipelineFile,
    PipelineName,
    Preset,
    Processes,
    RunKey,
    Token,
    TokenFile,
    TrainerImage,
)

if TYPE_CHECKING:
    from advgrpo.kfp_client import PipelineVersion


def submit(
    workspace: Annotated[
        str, typer.Option("--workspace", help="s3:// location that keeps results and checkpoints.")
    ],
    preset: Preset = DEFAULT_PRESET,
    overrides: Overrides = [],  # noqa: B006 - typer copies it
    processes: Processes = 1,
    run_key: RunKey = "",
    experiment: Annotated[
        str, typer.Option("--experiment", help="Groups runs; made if there is none of the name.")
    ] = "advgrpo",
    name: Annotated[
        str, typer.Option("--name", help="Name of the run; else the preset's, and the time.")
    ] = "",
    every: Annotated[
        str,
        typer.Option(
            "--every",
            help="Run again and again: an interval such as 12h, or a cron expression in quotes.",
        ),
    ] = "",
    watch: Annotated[bool, typer.Option("--watch", help="Follow the run to its end.")] = False,
    service_account: Annotated[
        str,
        typer.Option("--service-account", help="Of the tasks' pods; else Kubeflow's default."),
    ] = "",
    pipeline: PipelineFile = None,
    pipeline_name: PipelineName = DEFAULT_PIPELINE_NAME,
    launcher_image: LauncherImage = "",
    trainer_image: TrainerImage = "",
    endpoint: Endpoint = "",
    namespace: Namespace = "",
    token: Token = "",
    token_file: TokenFile = None,
    cookies: Cookies = "",
    ca: CaFile = None,
) -> None:
    """Validate a run, bring the pipeline to Kubeflow Pipelines if need be, and start it."""
    from advgrpo.errors import ConfigError
    from advgrpo.kfp_client import (
        Schedule,
        run_arguments,
        start_recurring_run,
        start_run,
        upload_pipeline,
    )

    if every and watch:
        raise ConfigError(
            "--watch follows one run, --every asks for many", repair="use one of them"
        )
    schedule = Schedule.read(every) if every else None
    arguments = run_arguments(
        preset, overrides, processes=processes, workspace=workspace, run_key=run_key
    )
    _tell_paths(preset, overrides)
    document = pipeline_document(
        pipeline, launcher_image=launcher_image, trainer_image=trainer_image
    )
    server = kfp_server(endpoint, namespace, token, token_file, cookies, ca)
    version = upload_pipeline(
        server, document, name=pipeline_name, any_images=not (launcher_image or trainer_image)
    )
    _tell_version(version, document.images)
    if schedule is not None:
        recurring = start_recurring_run(
            server,
            version,
            arguments,
            schedule=schedule,
            experiment=experiment,
            name=name or f"{Path(preset).stem} every {every}",
            service_account=service_account,
        )
        print(f"recurring run: {recurring.url}")
        return
    run = start_run(
        server,
        version,
        arguments,
        experiment=experiment,
        name=name or _name(preset),
        service_account=service_account,
    )
    print(f"run: {run.url}", flush=True)
    if watch:
        follow(server, run.id, document.tasks)


def _name(preset: str) -> str:
    from datetime import datetime

    return f"{Path(preset).stem} {datetime.now().astimezone():%Y-%m-%d %H:%M:%S}"


def _tell_paths(preset: str, overrides: list[str]) -> None:
    from advgrpo.kfp_client import paths_in_image

    for key, path in paths_in_image(preset, overrides).items():
        print(f"note: {key}={path} must be a path in the cluster's images")


def _tell_version(version: "PipelineVersion", images: tuple[str, ...]) -> None:
    if version.uploaded:
        print(f"uploaded {version.name}, with the images {', '.join(images)}")
