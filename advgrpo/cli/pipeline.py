"""`advgrpo pipeline`: compile it, run it here."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from advgrpo.cli.follow import follow
from advgrpo.cli.kfp_access import kfp_server, pipeline_document
from advgrpo.cli.options import (
    DEFAULT_PIPELINE_NAME,
    DEFAULT_PRESET,
    DEFAULT_WORKSPACE,
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
    Workspace,
)

app = typer.Typer(help="The pipeline of all tasks.", no_args_is_help=True)


@app.command("compile")
def compile_pipeline(
    output: Annotated[
        Path | None,
        typer.Option("--output", help="YAML file to write; else the one that is checked in."),
    ] = None,
) -> None:
    """Compile the pipeline of a checkout."""
    from advgrpo.kfp_client.compiled import CHECKED_IN, CHECKOUT

    target = (output or CHECKED_IN).resolve()
    module = f"pipelines.{CHECKED_IN.stem}"
    subprocess.run([sys.executable, "-m", module, str(target)], cwd=CHECKOUT, check=True)
    print(target)


@app.command()
def run(
    preset: Preset = DEFAULT_PRESET,
    overrides: Overrides = [],  # noqa: B006 - typer copies it
    processes: Processes = 1,
    workspace: Workspace = DEFAULT_WORKSPACE,
    run_key: RunKey = "",
    pipeline: PipelineFile = None,
    artifacts: Annotated[
        Path, typer.Option("--artifacts", help="Folder for the tasks' artifacts.")
    ] = Path("artifacts"),
    output: Annotated[
        Path | None, typer.Option("--output", help="JSON file for the pipeline's outputs.")
    ] = None,
) -> None:
    """Run all tasks on this machine, one after the other; started again, it goes on."""
    from advgrpo.kfp_client.compiled import PIPELINE
    from advgrpo.kfp_client.local import run_pipeline
    from advgrpo.tasks.preflight import check_local_run

    if pipeline is None:
        check_local_run(preset, overrides, processes)
    outputs = run_pipeline(
        pipeline or PIPELINE,
        {
            "preset": preset,
            "overrides": overrides,
            "processes": processes,
            "workspace": workspace,
            "run_key": run_key,
        },
        artifacts=artifacts,
    )
    text = json.dumps(outputs, indent=1)
    print(text)
    if output is not None:
        output.write_text(text, encoding="utf-8")


@app.command()
def upload(
    pipeline: PipelineFile = None,
    name: PipelineName = DEFAULT_PIPELINE_NAME,
    launcher_image: LauncherImage = "",
    trainer_image: TrainerImage = "",
    endpoint: Endpoint = "",
    namespace: Namespace = "",
    token: Token = "",
    token_file: TokenFile = None,
    cookies: Cookies = "",
    ca: CaFile = None,
) -> None:
    """Bring the pipeline to Kubeflow Pipelines, unless the same is there already."""
    from advgrpo.kfp_client import upload_pipeline

    document = pipeline_document(
        pipeline, launcher_image=launcher_image, trainer_image=trainer_image
    )
    server = kfp_server(endpoint, namespace, token, token_file, cookies, ca)
    version = upload_pipeline(server, document, name=name)
    print(f"{version.name} {'is uploaded' if version.uploaded else 'is there already'}")
    print(version.url)


@app.command()
def watch(
    run_id: Annotated[
        str, typer.Argument(help="Id of a run, the last part of its page's address.")
    ],
    pipeline: PipelineFile = None,
    endpoint: Endpoint = "",
    namespace: Namespace = "",
    token: Token = "",
    token_file: TokenFile = None,
    cookies: Cookies = "",
    ca: CaFile = None,
) -> None:
    """Follow a run on a cluster to its end; fail if it fails."""
    document = pipeline_document(pipeline, launcher_image="", trainer_image="")
    server = kfp_server(endpoint, namespace, token, token_file, cookies, ca)
    follow(server, run_id, document.tasks)
