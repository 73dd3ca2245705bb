"""`advgrpo prompts`: import prompt files from tables and lists, and check them."""

from pathlib import Path
from typing import Annotated

import typer

from advgrpo.cli.options import local_path

app = typer.Typer(help="Import and check prompt files.", no_args_is_help=True)


@app.command("import")
def import_prompts(
    source: Annotated[
        str,
        typer.Argument(
            help="A .csv, .tsv, .jsonl, .parquet or .arrow file with column names, or a file with "
            "one prompt per line; local, s3:// or hub://datasets/OWNER/NAME/FILE@COMMIT.",
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", help="Prompt file to write.", callback=local_path)
    ],
    column: Annotated[str, typer.Option("--column", help="Column of the prompts.")] = "Prompt",
    drop_repeats: Annotated[
        bool,
        typer.Option(
            "--drop-repeats",
            help="Keep one copy of repeated prompts, also of those that differ only in white "
            "space, case or Unicode form.",
        ),
    ] = False,
    exclude: Annotated[
        list[str],
        typer.Option(
            "--exclude",
            metavar="FILE",
            help="Leave out the prompts of this file, as of the other split; may be repeated.",
        ),
    ] = [],
    strip_byte_order_marks: Annotated[
        bool,
        typer.Option(
            "--strip-byte-order-marks", help="Remove U+FEFF, which concatenated files have within."
        ),
    ] = False,
) -> None:
    """Write the prompts of a table or a list as a prompt file; repeated prompts are an error."""
    from advgrpo.data.prompt_tables import read_prompt_list, refuse_repeats, without
    from advgrpo.errors import PromptFileError
    from advgrpo.storage.files import write_bytes

    found = read_prompt_list(source, column, strip_byte_order_marks=strip_byte_order_marks)
    if found.repeats and not drop_repeats:
        refuse_repeats(source, found)
    left = found
    for other in exclude:
        left = without(
            left, read_prompt_list(other, column, strip_byte_order_marks=strip_byte_order_marks)
        )
    if not left.prompts:
        raise PromptFileError(
            f"{source}: --exclude leaves no prompts", repair="exclude the file of the other split"
        )
    # Atomic, unlike `Path.write_bytes`.
    write_bytes(str(output), "".join(f"{text}\n" for text in left.prompts).encode())
    if found.repeats:
        print(f"dropped {len(found.repeats)} repeats")
    if exclude:
        print(f"left out {len(found.prompts) - len(left.prompts)} prompts of {', '.join(exclude)}")
    check(str(output))


@app.command()
def check(
    location: Annotated[str, typer.Argument(help="Path or s3:// location of a prompt file.")],
) -> None:
    """Check a prompt file; print its number of prompts and its SHA-256."""
    from advgrpo.data.prompts import read_prompts
    from advgrpo.storage.fetch import local_file
    from advgrpo.storage.local import file_sha256

    prompts = read_prompts(location)
    print(f"{location}: {len(prompts)} prompts, SHA-256 {file_sha256(local_file(location))}")
