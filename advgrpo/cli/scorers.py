"""`advgrpo scorers`: convert published weights of scorers."""

from pathlib import Path
from typing import Annotated

import typer

from advgrpo.cli.options import local_path

app = typer.Typer(help="Convert published weights of scorers.", no_args_is_help=True)

# Converted once, because tasks load safetensors only and never open a pickle.
Checkpoint = Annotated[
    Path,
    typer.Option("--checkpoint", help="Published file, a pickle of tensors.", callback=local_path),
]
Folder = Annotated[
    Path, typer.Option("--output", help="Folder for the safetensors.", callback=local_path)
]


@app.command("convert-hps")
def convert_hps(
    checkpoint: Checkpoint,
    base: Annotated[
        str,
        typer.Option("--base", help="CLIP ViT-H/14 of LAION: folder, s3:// or hub:// location."),
    ],
    output: Folder,
    revision: Annotated[
        str | None, typer.Option("--revision", help="Commit of --base on a hub.")
    ] = None,
) -> None:
    """Convert HPS v2.1 to a folder for the scorer `hps`."""
    from advgrpo.config.base import Weights
    from advgrpo.config.parsing import parse
    from advgrpo.models.scorers import conversion

    # Parsed as settings, so that a hub location without a commit is refused here too.
    weights = parse(Weights, {"location": base, "revision": revision}, where="--base")
    conversion.convert_hps(checkpoint, weights, output)
    print(f"set weights.location of the scorer hps to {output}")


@app.command("convert-aesthetic")
def convert_aesthetic(checkpoint: Checkpoint, output: Folder) -> None:
    """Convert LAION's aesthetic predictor to a folder for the scorer `aesthetic`."""
    from advgrpo.models.scorers import conversion

    conversion.convert_aesthetic(checkpoint, output)
    print(f"set predictor.location of the scorer aesthetic to {output}")
