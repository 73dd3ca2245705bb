"""`advgrpo reproduce`: compute anew what became NaN or infinite."""

from typing import Annotated

import typer


def reproduce(
    location: Annotated[
        str, typer.Argument(help="Folder or s3:// location that the error or the log names.")
    ],
    precision: Annotated[
        str,
        typer.Option("--forward-dtype", help="float32 or bfloat16, in place of the run's own."),
    ] = "",
    every: Annotated[bool, typer.Option("--all", help="List sound tensors too.")] = False,
) -> None:
    """Compute a kept rollout anew, and say which tensors are not finite."""
    from advgrpo.tasks.reproduce import reproduce as compute

    what, reports = compute(location, forward_dtype=precision or None)
    print(what)
    bad = 0
    for report in reports:
        bad += report.not_finite > 0
        if report.not_finite or every:
            print(
                f"{report.name}: {report.not_finite} of {report.values} values not finite, "
                f"largest of the others {report.largest:.3g}"
            )
    print(f"{bad} tensors are not finite" if bad else "all tensors are finite this time")
