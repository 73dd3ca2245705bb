"""`advgrpo config`: print and validate settings."""

from pathlib import Path
from typing import Annotated

import typer

from advgrpo.cli.init import pin
from advgrpo.cli.options import DEFAULT_PRESET, Overrides, Preset, Processes, local_path

app = typer.Typer(help="Print and validate the settings of a run.", no_args_is_help=True)
app.command()(pin)


@app.command()
def show(
    preset: Preset = DEFAULT_PRESET,
    overrides: Overrides = [],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", help="YAML file to write. Default: the terminal.", callback=local_path
        ),
    ] = None,
) -> None:
    """Print all settings, including inherited ones and defaults, as YAML for --preset.

    Settings that depend on you, and are not set yet, are marked `# not set`.
    """
    from advgrpo.config.required import mark_placeholders
    from advgrpo.config.resolution import resolve

    # Also of a preset that leaves settings open, so that one can see which.
    text = mark_placeholders(resolve(preset, overrides, needed=()).to_yaml())
    if output is None:
        # YAML ends with a newline already, and a redirected output equals the file of --output.
        print(text, end="")
    else:
        output.write_text(text, encoding="utf-8")


@app.command()
def validate(
    preset: Preset = DEFAULT_PRESET,
    overrides: Overrides = [],
    processes: Processes = 1,
) -> None:
    """Check settings, the number of processes, and the prompt files if this machine has them."""
    from advgrpo.config.resolution import resolve
    from advgrpo.tasks.preflight import check_prompts, prompts_are_local

    config = resolve(preset, overrides)
    config.check_ranks(processes)
    # Files on S3 would need credentials; the run's first task checks them.
    if prompts_are_local(config):
        check_prompts(config, processes)
    print(f"{preset}: valid for {processes} training processes")
