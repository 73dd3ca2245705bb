"""`advgrpo generate`: generate images with an adapter."""

from typing import Annotated

import typer

from advgrpo.cli.options import DEFAULT_PRESET, Overrides, Preset, Processes


def generate(
    context: typer.Context,
    prompts: Annotated[list[str] | None, typer.Argument(help="Prompts, each in quotes.")] = None,
    prompts_file: Annotated[
        str,
        typer.Option(
            "--prompts",
            help="UTF-8 file with one prompt per line, or a .csv, .tsv, .jsonl or .parquet table.",
        ),
    ] = "",
    column: Annotated[
        str, typer.Option("--column", help="Column of the prompts in a table.")
    ] = "Prompt",
    adapter: Annotated[
        str,
        typer.Option(
            "--adapter",
            help="Folder, s3:// location, hub://owner/name/folder@COMMIT or models:/name@alias. "
            "Default: the base model alone.",
        ),
    ] = "",
    model: Annotated[
        str,
        typer.Option(
            "--model",
            help="Registered adapter with its base model, steps and guidance, for instance "
            "models:/name@champion; instead of --preset and --adapter.",
        ),
    ] = "",
    images_per_prompt: Annotated[
        int, typer.Option("--images-per-prompt", min=1, help="Images per prompt.")
    ] = 1,
    seed: Annotated[
        # Other images of a prompt have the following seeds, which must still be 64-bit integers.
        int, typer.Option("--seed", min=0, max=2**62, help="Seed of each prompt's first image.")
    ] = 0,
    compare: Annotated[
        bool,
        typer.Option(
            "--compare", help="Generate each image with the base model too, side by side."
        ),
    ] = False,
    batch_size: Annotated[
        int,
        typer.Option(
            "--batch-size",
            min=1,
            help="Images per batch; above 1, the last bits of an image may depend on the others.",
        ),
    ] = 1,
    processes: Processes = 1,
    preset: Preset = DEFAULT_PRESET,
    overrides: Overrides = [],
    output: Annotated[
        str, typer.Option("--output", help="Folder or s3:// location for the images.")
    ] = "generated",
) -> None:
    """Generate images, with prompt and seed in each file, and a contact sheet.

    Repeated, it generates only missing images; it never overwrites other files.
    """
    from advgrpo.cli.bars import progress_bars
    from advgrpo.config.resolution import resolve_generation
    from advgrpo.data.prompt_tables import read_any_prompts
    from advgrpo.data.prompts import checked_prompts
    from advgrpo.errors import ConfigError

    # Stripped as lines of a prompt file are, so that one prompt gives the same image either way.
    texts = [text.strip() for text in prompts or []]
    if prompts_file:
        texts += read_any_prompts(prompts_file, column).texts
    if not texts:
        raise ConfigError("no prompts are given", repair="add prompts, or use --prompts FILE")
    # Both sources together: a prompt may be given as an argument and also be in the file.
    checked_prompts(
        list(enumerate(texts, start=1)),
        where="the prompts",
        unit="prompt",
        repair="give each prompt once, as one line of text",
        # Texts of the same meaning to an encoder may be compared on purpose.
        key=str,
    )
    # By its source: the default may have been written out.
    source = context.get_parameter_source("preset")
    if model and (adapter or overrides or (source and source.name != "DEFAULT")):
        raise ConfigError(
            "--model excludes --adapter, --preset and --set: it has settings and an adapter",
            repair="leave these options out, or use --adapter with the model instead of --model",
        )
    config = None if model else resolve_generation(preset, overrides)
    # Loads torch, which takes seconds: wrong settings are reported before that.
    from advgrpo.tasks.generate import generate as task
    from advgrpo.tasks.generate import registered_run

    if config is None:
        # A registered version records the settings that it was trained with.
        config, adapter = registered_run(model)
    with progress_bars():
        locations = task(
            config,
            texts,
            adapter=adapter,
            images_per_prompt=images_per_prompt,
            seed=seed,
            output=output,
            batch_size=batch_size,
            processes=processes,
            compare=compare,
        )
    sheet = "side_by_side.png" if compare else "grid.png"
    print(f"{len(locations)} images and {sheet} in {output}")
