"""`advgrpo prompts`: prompt files out of tables that others publish, and their hashes."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Prompt files: import them, check them.", no_args_is_help=True)


@app.command("import")
def import_prompts(
    table: Annotated[
        str, typer.Argument(help="A .csv, .tsv or .jsonl file that names its columns.")
    ],
    output: Annotated[Path, typer.Option("--output", help="Prompt file to write.")],
    column: Annotated[
        str, typer.Option("--column", help="Column that holds the prompts.")
    ] = "Prompt",
    drop_repeats: Annotated[
        bool, typer.Option("--drop-repeats", help="Keep a prompt that is there twice once.")
    ] = False,
) -> None:
    """Write one column of a table as a prompt file; prompts that occur twice are refused."""
    from advgrpo.data.prompt_tables import read_prompt_table, refuse_repeats
    from advgrpo.storage import write_bytes

    found = read_prompt_table(table, column)
    if found.repeats and not drop_repeats:
        refuse_repeats(table, found)
    write_bytes(str(output), "".join(f"{text}\n" for text in found.prompts).encode())
    if found.repeats:
        print(f"left out {len(found.repeats)} repeats")
    check(str(output))


@app.command()
def check(
    location: Annotated[str, typer.Argument(help="Prompt file, or its s3:// location.")],
) -> None:
    """Check a prompt file; print how many prompts it has and its SHA-256."""
    from advgrpo.data.prompts import read_prompts
    from advgrpo.storage import file_sha256
    from advgrpo.storage.fetch import local_file

    prompts = read_prompts(location)
    print(f"{location}: {len(prompts)} prompts, SHA-256 {file_sha256(local_file(location))}")
