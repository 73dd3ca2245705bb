"""`advgrpo pipeline`: compile it, run it here."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from advgrpo.cli.options import (
    DEFAULT_PRESET,
    DEFAULT_WORKSPACE,
    Overrides,
    Preset,
    Processes,
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
    from advgrpo.local_pipeline import CHECKOUT, PIPELINE

    target = (output or PIPELINE).resolve()
    module = f"pipelines.{PIPELINE.stem}"
    subprocess.run([sys.executable, "-m", module, str(target)], cwd=CHECKOUT, check=True)
    print(target)


@app.command()
def run(
    preset: Preset = DEFAULT_PRESET,
    overrides: Overrides = [],  # noqa: B006 - typer copies it
    processes: Processes = 1,
    workspace: Workspace = DEFAULT_WORKSPACE,
    run_key: Annotated[
        str, typer.Option("--run-key", help="Key of an MLflow run to take up again.")
    ] = "",
    pipeline: Annotated[
        Path | None, typer.Option("--pipeline", help="Compiled pipeline; else the checkout's.")
    ] = None,
    artifacts: Annotated[
        Path, typer.Option("--artifacts", help="Folder for the tasks' artifacts.")
    ] = Path("artifacts"),
    output: Annotated[
        Path | None, typer.Option("--output", help="JSON file for the pipeline's outputs.")
    ] = None,
) -> None:
    """Run all tasks on this machine, one after the other; started again, it goes on."""
    from advgrpo.local_pipeline import PIPELINE, run_pipeline

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
