"""`advgrpo prompts`: import prompt files from tables, and check them."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Import and check prompt files.", no_args_is_help=True)


@app.command("import")
def import_prompts(
    table: Annotated[str, typer.Argument(help="A .csv, .tsv or .jsonl file with column names.")],
    output: Annotated[Path, typer.Option("--output", help="Prompt file to write.")],
    column: Annotated[str, typer.Option("--column", help="Column of the prompts.")] = "Prompt",
    drop_repeats: Annotated[
        bool, typer.Option("--drop-repeats", help="Keep one copy of repeated prompts.")
    ] = False,
) -> None:
    """Write one column of a table as a prompt file; repeated prompts are an error."""
    from advgrpo.data.prompt_tables import read_prompt_table, refuse_repeats
    from advgrpo.storage.files import write_bytes

    found = read_prompt_table(table, column)
    if found.repeats and not drop_repeats:
        refuse_repeats(table, found)
    # Atomic, unlike `Path.write_bytes`.
    write_bytes(str(output), "".join(f"{text}\n" for text in found.prompts).encode())
    if found.repeats:
        print(f"dropped {len(found.repeats)} repeats")
    # Reads the file back: a prompt file has limits, such as a length, that a table has not.
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
