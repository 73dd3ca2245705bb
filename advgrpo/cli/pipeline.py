"""`advgrpo pipeline`: compile the pipeline, run it locally, upload it, watch its runs."""

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from advgrpo.cli.follow import follow
from advgrpo.cli.kfp_access import pipeline_document, with_kfp_access
from advgrpo.cli.options import (
    DEFAULT_PIPELINE_NAME,
    DEFAULT_PRESET,
    DEFAULT_WORKSPACE,
    LauncherImage,
    Overrides,
    PipelineFile,
    PipelineName,
    Preset,
    Processes,
    RunKey,
    TrainerImage,
    Workspace,
    local_path,
)

if TYPE_CHECKING:
    from advgrpo.kfp_client import Access

app = typer.Typer(
    help="Compile, run, upload and watch the pipeline of all tasks.", no_args_is_help=True
)


@app.command("compile")
def compile_pipeline(
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", help="YAML file to write. Default: the checked-in one.", callback=local_path
        ),
    ] = None,
) -> None:
    """Compile the pipeline; needs a checkout."""
    from advgrpo.kfp_client.compiled import CHECKED_IN, CHECKOUT

    # Resolved here, because the compiler runs in another directory.
    target = (output or CHECKED_IN).resolve()
    module = f"pipelines.{CHECKED_IN.stem}"
    # `pipelines` is not part of the package and importable only from the root of a checkout.
    subprocess.run([sys.executable, "-m", module, str(target)], cwd=CHECKOUT, check=True)
    print(target)


@app.command()
def run(
    preset: Preset = DEFAULT_PRESET,
    overrides: Overrides = [],
    processes: Processes = 1,
    workspace: Workspace = DEFAULT_WORKSPACE,
    run_key: RunKey = "",
    pipeline: PipelineFile = None,
    artifacts: Annotated[
        Path,
        typer.Option("--artifacts", help="Folder for the tasks' artifacts.", callback=local_path),
    ] = Path("artifacts"),
    output: Annotated[
        Path | None,
        typer.Option("--output", help="JSON file for the pipeline's outputs.", callback=local_path),
    ] = None,
    verbose: Annotated[
        bool,
        typer.Option("--verbose", "-v", help="Show the output of the tasks instead of progress."),
    ] = False,
) -> None:
    """Run all tasks on this machine, one after the other; repeated, it resumes."""
    from advgrpo.config.pipeline_preset import split_preset
    from advgrpo.tasks.preflight import check_local_run
    from advgrpo.telemetry.logging import as_json

    # Another pipeline may not have the tasks whose needs are checked.
    if pipeline is None:
        check_local_run(preset, overrides, processes)
    # Loads kfp, which takes seconds: wrong settings are reported before that.
    from advgrpo.kfp_client.compiled import PIPELINE, check_exists
    from advgrpo.kfp_client.local import run_pipeline

    check_exists(pipeline or PIPELINE)
    # Log collectors want each line.
    if not verbose and not as_json():
        outputs = _run_watched(artifacts, output)
        print(json.dumps(outputs, indent=1))
        return
    choice, settings_yaml = split_preset(preset)
    outputs = run_pipeline(
        pipeline or PIPELINE,
        {
            "preset": choice,
            "settings_yaml": settings_yaml,
            "overrides": overrides,
            "processes": processes,
            "workspace": workspace,
            "mlflow_run_key": run_key,
        },
        artifacts=artifacts,
    )
    text = json.dumps(outputs, indent=1)
    print(text)
    if output is not None:
        output.write_text(text, encoding="utf-8")


def _run_watched(artifacts: Path, output: Path | None) -> dict[str, str]:
    """Run this command again in a process of its own, and show its progress.

    Returns:
        The pipeline's outputs.
    """
    import os
    from contextlib import nullcontext
    from tempfile import TemporaryDirectory

    from rich.console import Console

    from advgrpo.demo.display import Bars, Lines, live
    from advgrpo.demo.phases import PhaseClock
    from advgrpo.demo.watched import run_watched
    from advgrpo.runtime.pipeline_tasks import PIPELINE_TASKS

    # Standard output is for the outputs.
    console = Console(stderr=True)
    bars = Bars([task.name for task in PIPELINE_TASKS]) if console.is_terminal else None
    log = artifacts / "pipeline.log"
    console.print(f"The output of the tasks is in {log}.", highlight=False, soft_wrap=True)
    with TemporaryDirectory() as state:
        written = output or Path(state, "outputs.json")
        command = [sys.executable, "-m", "advgrpo.cli.main", *sys.argv[1:], "--verbose"]
        with live(bars, console) if bars else nullcontext():
            run_watched(
                [*command, "--output", str(written)],
                "pipeline",
                variables=os.environ,
                state=Path(state),
                log_file=log,
                display=bars or Lines(console),
                clock=PhaseClock({}),
            )
        outputs: dict[str, str] = json.loads(written.read_text(encoding="utf-8"))
        return outputs


@app.command()
@with_kfp_access
def upload(
    access: "Access",
    pipeline: PipelineFile = None,
    name: PipelineName = DEFAULT_PIPELINE_NAME,
    launcher_image: LauncherImage = "",
    trainer_image: TrainerImage = "",
) -> None:
    """Upload the pipeline to Kubeflow Pipelines, unless this version exists there."""
    from advgrpo.kfp_client import KfpServer, upload_pipeline

    document = pipeline_document(
        pipeline, launcher_image=launcher_image, trainer_image=trainer_image
    )
    version = upload_pipeline(KfpServer(access), document, name=name)
    print(f"{version.name} {'uploaded' if version.uploaded else 'exists already'}")
    print(version.url)


@app.command()
@with_kfp_access
def download(
    access: "Access",
    output: Annotated[
        Path,
        typer.Option(
            "--output", help="YAML file to write, for instance for `kfp`.", callback=local_path
        ),
    ] = Path("adversarial_grpo.yaml"),
    name: PipelineName = DEFAULT_PIPELINE_NAME,
) -> None:
    """Download the pipeline as the chart uploaded it, with the images and names of the cluster."""
    from advgrpo.kfp_client import KfpServer, download_pipeline

    version, document = download_pipeline(KfpServer(access), pipeline_document(None), name=name)
    output.write_text(document.to_yaml(), encoding="utf-8")
    print(f"{output}: {version.name}, images {', '.join(document.images)}")
    print(f"without the file: kfp run create -p {version.pipeline_id} -v {version.version_id}")


@app.command()
@with_kfp_access
def watch(
    access: "Access",
    run_id: Annotated[
        str, typer.Argument(help="Id of a run, the last part of its page's address.")
    ],
    pipeline: PipelineFile = None,
) -> None:
    """Watch a run on a cluster until it ends; exit with an error if it fails."""
    from advgrpo.kfp_client import KfpServer

    follow(KfpServer(access), run_id, pipeline_document(pipeline).tasks)
