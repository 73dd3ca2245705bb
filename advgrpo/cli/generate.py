"""`advgrpo generate`: draw images with an adapter."""

from typing import Annotated

import typer

from advgrpo.cli.options import DEFAULT_PRESET, Overrides, Preset, Processes


def generate(
    prompts: Annotated[list[str] | None, typer.Argument(help="What to draw.")] = None,
    prompts_file: Annotated[
        str,
        typer.Option(
            "--prompts", help="UTF-8 file with one prompt a line, or a .csv, .tsv or .jsonl table."
        ),
    ] = "",
    column: Annotated[
        str, typer.Option("--column", help="Of a table, the column that holds the prompts.")
    ] = "Prompt",
    adapter: Annotated[
        str,
        typer.Option(
            "--adapter",
            help="Folder, s3:// location, hub://owner/name/folder@COMMIT or models:/name@alias; "
            "without it, the base model draws.",
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
    seed: Annotated[
        int, typer.Option("--seed", min=0, max=2**62, help="Of each prompt's first image.")
    ] = 0,
    compare: Annotated[
        bool,
        typer.Option("--compare", help="Draw each image with the base model too, side by side."),
    ] = False,
    batch_size: Annotated[
        int,
        typer.Option(
            "--batch-size",
            min=1,
            help="Images drawn at once; with more than one, an image's last bits may depend on the "
            "others.",
        ),
    ] = 1,
    processes: Processes = 1,
    preset: Preset = DEFAULT_PRESET,
    overrides: Overrides = [],
    output: Annotated[
        str, typer.Option("--output", help="Folder or s3:// location for the images.")
    ] = "generated",
) -> None:
    """Draw images, each with its prompt and seed in its file, and sheets of all.

    Started again, it keeps what is there and draws the rest; it overwrites no other image.
    """
    from advgrpo.config import resolve
    from advgrpo.data.prompt_tables import read_any_prompts
    from advgrpo.data.prompts import checked_prompts
    from advgrpo.errors import ConfigError
    from advgrpo.tasks.generate import generate as draw
    from advgrpo.tasks.generate import registered_run

    texts = [text.strip() for text in prompts or []]
    if prompts_file:
        texts += read_any_prompts(prompts_file, column).texts
    if not texts:
        raise ConfigError("there is nothing to draw", repair="give prompts, or --prompts FILE")
    checked_prompts(
        texts, where="what is to be drawn", unit="prompt", repair="give each prompt once, as text"
    )
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
        batch_size=batch_size,
        processes=processes,
        compare=compare,
    )
    sheet = "side_by_side.png" if compare else "grid.png"
    print(f"{len(locations)} images and {sheet} in {output}")
