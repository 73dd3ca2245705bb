"""`advgrpo scorers`: make published measures readable."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Make published measures readable.", no_args_is_help=True)

Checkpoint = Annotated[
    Path, typer.Option("--checkpoint", help="The published file, a pickle of tensors.")
]
Folder = Annotated[Path, typer.Option("--output", help="Folder that gets safetensors.")]


@app.command("convert-hps")
def convert_hps(
    checkpoint: Checkpoint,
    base: Annotated[
        str, typer.Option("--base", help="CLIP ViT-H/14 of LAION: a folder, s3:// or hub://.")
    ],
    output: Folder,
    revision: Annotated[
        str | None, typer.Option("--revision", help="Commit, if the base lies on a hub.")
    ] = None,
) -> None:
    """Write HPS v2.1 as the folder that the scorer `hps` reads."""
    from advgrpo.config import Weights, parse
    from advgrpo.models.scorers import conversion

    weights = parse(Weights, {"location": base, "revision": revision}, where="--base")
    conversion.convert_hps(checkpoint, weights, output)
    print(f"set weights.location of the scorer hps to {output}")


@app.command("convert-aesthetic")
def convert_aesthetic(checkpoint: Checkpoint, output: Folder) -> None:
    """Write LAION's aesthetic predictor as the folder that the scorer `aesthetic` reads."""
    from advgrpo.models.scorers import conversion

    conversion.convert_aesthetic(checkpoint, output)
    print(f"set predictor.location of the scorer aesthetic to {output}")
