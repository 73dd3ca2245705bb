"""`advgrpo reproduce`: recompute a dumped rollout with NaN or infinite values."""

from typing import Annotated

import typer


def reproduce(
    location: Annotated[
        str, typer.Argument(help="Folder or s3:// location of the dump, from the error or the log.")
    ],
    precision: Annotated[
        str,
        typer.Option("--forward-dtype", help="float32 or bfloat16. Default: the run's."),
    ] = "",
    every: Annotated[bool, typer.Option("--all", help="List finite tensors too.")] = False,
) -> None:
    """Recompute a dumped rollout, and list the tensors with non-finite values."""
    from advgrpo.tasks.reproduce import reproduce as compute

    description, reports = compute(location, forward_dtype=precision or None)
    print(description)
    bad = 0
    for report in reports:
        bad += report.not_finite > 0
        if report.not_finite or every:
            print(
                f"{report.name}: {report.not_finite} of {report.values} values not finite, "
                f"largest of the others {report.largest:.3g}"
            )
    print(f"{bad} tensors are not finite" if bad else "all tensors are finite")
