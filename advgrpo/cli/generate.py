"""`advgrpo generate`: draw images with an adapter."""

from pathlib import Path
from typing import Annotated

import typer

from advgrpo.cli.options import DEFAULT_PRESET, Overrides, Preset


def generate(
    prompts: Annotated[list[str] | None, typer.Argument(help="What to draw.")] = None,
    prompts_file: Annotated[
        Path | None, typer.Option("--prompts", help="UTF-8 file with one prompt a line.")
    ] = None,
    adapter: Annotated[
        str,
        typer.Option(
            "--adapter",
            help="Folder, s3:// location or models:/name@alias; without it, the base model draws.",
        ),
    ] = "",
    model: Annotated[
        str,
        typer.Option(
            "--model",
            help="models:/name@champion: a registered adapter with its own base model, steps and "
            "guidance, in place of --preset and --adapter.",
        ),
    ] = "",
    images_per_prompt: Annotated[int, typer.Option("--images-per-prompt", min=1)] = 1,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of each prompt's first image.")] = 0,
    preset: Preset = DEFAULT_PRESET,
    overrides: Overrides = [],  # noqa: B006 - typer copies it
    output: Annotated[
        str, typer.Option("--output", help="Folder or s3:// location for the images.")
    ] = "generated",
) -> None:
    """Draw images, each with its prompt and seed in its file, and a grid of all."""
    from advgrpo.config import resolve
    from advgrpo.data.prompts import read_prompts
    from advgrpo.errors import ConfigError
    from advgrpo.tasks.generate import generate as draw
    from advgrpo.tasks.generate import registered_run

    texts = list(prompts or [])
    if prompts_file is not None:
        texts += read_prompts(prompts_file).texts
    if not texts:
        raise ConfigError("there is nothing to draw", repair="give prompts, or --prompts FILE")
    if model and (adapter or overrides or preset != DEFAULT_PRESET):
        raise ConfigError(
            "--model brings its own settings and adapter",
            repair="leave out --adapter, --preset and --set; or give the model as --adapter",
        )
    config, adapter = registered_run(model) if model else (resolve(preset, overrides), adapter)
    locations = draw(
        config,
        texts,
        adapter=adapter,
        images_per_prompt=images_per_prompt,
        seed=seed,
        output=output,
    )
    print(f"{len(locations)} images and grid.png in {output}")
