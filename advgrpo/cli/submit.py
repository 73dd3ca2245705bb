"""`advgrpo submit`: start a run or a recurring run on a cluster."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from advgrpo.cli.follow import follow
from advgrpo.cli.kfp_access import WORKSPACE, pipeline_document, with_kfp_access
from advgrpo.cli.options import (
    DEFAULT_PIPELINE_NAME,
    DEFAULT_PRESET,
    LauncherImage,
    Overrides,
    PipelineFile,
    PipelineName,
    Preset,
    Processes,
    RunKey,
    TrainerImage,
)

if TYPE_CHECKING:
    from advgrpo.kfp_client import Access, PipelineVersion


@with_kfp_access
def submit(
    access: "Access",
    workspace: Annotated[
        str,
        typer.Option(
            "--workspace", envvar=WORKSPACE, help="s3:// location for results and checkpoints."
        ),
    ],
    preset: Preset = DEFAULT_PRESET,
    overrides: Overrides = [],
    processes: Processes = 1,
    run_key: RunKey = "",
    experiment: Annotated[
        str,
        typer.Option("--experiment", help="Experiment of the run; created if missing."),
    ] = "advgrpo",
    name: Annotated[
        str,
        typer.Option("--name", help="Name of the run. Default: preset and time."),
    ] = "",
    every: Annotated[
        str,
        typer.Option(
            "--every",
            help="Create a recurring run: an interval such as 12h, or a cron expression in quotes.",
        ),
    ] = "",
    watch: Annotated[bool, typer.Option("--watch", help="Watch the run until it ends.")] = False,
    service_account: Annotated[
        str,
        typer.Option(
            "--service-account", help="Service account of the tasks' pods. Default: Kubeflow's."
        ),
    ] = "",
    pipeline: PipelineFile = None,
    pipeline_name: PipelineName = DEFAULT_PIPELINE_NAME,
    launcher_image: LauncherImage = "",
    trainer_image: TrainerImage = "",
) -> None:
    """Validate a run, upload the pipeline to Kubeflow Pipelines if needed, and start it."""
    from advgrpo.errors import ConfigError
    from advgrpo.kfp_client import (
        KfpServer,
        Schedule,
        run_arguments,
        start_recurring_run,
        start_run,
        upload_pipeline,
    )

    if every and watch:
        raise ConfigError(
            "--watch and --every exclude each other: a recurring run does not end",
            repair="leave one of them out",
        )
    # All checks come first: nothing is uploaded for a run that cannot start.
    schedule = Schedule.parse(every) if every else None
    arguments = run_arguments(
        preset, overrides, processes=processes, workspace=workspace, run_key=run_key
    )
    _print_paths(preset, overrides)
    document = pipeline_document(
        pipeline, launcher_image=launcher_image, trainer_image=trainer_image
    )
    server = KfpServer(access)
    if access.namespace and server.namespace is None:
        print(
            "note: this Kubeflow Pipelines is in single-user mode: it runs all tasks in its own "
            f"namespace, where the chart must be installed; --namespace={access.namespace} has no "
            "effect"
        )
    # Without explicit images, a version that the chart uploaded is used: its images are in the
    # cluster's registry.
    version = upload_pipeline(
        server, document, name=pipeline_name, any_images=not (launcher_image or trainer_image)
    )
    _print_version(version, document.images)
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
        # The time keeps the names of runs apart.
        name=name or _name(preset),
        service_account=service_account,
    )
    # Flushed, because with --watch nothing else may be printed for minutes.
    print(f"run: {run.url}", flush=True)
    if watch:
        follow(server, run.id, document.tasks)


def _name(preset: str) -> str:
    from datetime import datetime

    return f"{Path(preset).stem} {datetime.now().astimezone():%Y-%m-%d %H:%M:%S}"


def _print_paths(preset: str, overrides: list[str]) -> None:
    from advgrpo.kfp_client import paths_in_image

    for key, path in paths_in_image(preset, overrides).items():
        # A note, not an error: a custom image may contain the file.
        print(f"note: {key}={path} must exist in the cluster's images")


def _print_version(version: "PipelineVersion", images: tuple[str, ...]) -> None:
    if version.uploaded:
        print(f"uploaded {version.name} with the images {', '.join(images)}")
