"""Prompts out of tables that others publish: PartiPrompts, DrawBench and the like."""

import csv
import io
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from advgrpo.errors import PromptFileError
from advgrpo.storage import local_file

_DELIMITERS = {".tsv": "\t", ".tab": "\t", ".csv": ","}
_LISTED = 12


@dataclass(frozen=True)
class PromptTable:
    """One column of a table."""

    prompts: tuple[str, ...]
    """In the order of the table, each once; runs of white space are single blanks."""

    repeats: tuple[str, ...]
    """What occurs again, as often as it does."""


def read_prompt_table(location: str, column: str) -> PromptTable:
    """Read the prompts of a table.

    Args:
        location: A `.csv` or `.tsv` file in UTF-8 whose first row names the columns; a local path
            or `s3://bucket/key`.
        column: Name of the column that holds the prompts.

    Raises:
        PromptFileError: If it is no such table, has no such column, or a row has no prompt.
        StorageError: If it cannot be read.
    """
    rows = _rows(location)
    names = rows[0] if rows else []
    if column not in names:
        raise PromptFileError(
            f"{location} has no column {column!r}; it has {', '.join(map(repr, names)) or 'none'}",
            repair="name the column that holds the prompts with --column",
        )
    place = names.index(column)
    texts = [" ".join(row[place].split()) if len(row) > place else "" for row in rows[1:] if row]
    if empty := [number for number, text in enumerate(texts, start=2) if not text]:
        listed = ", ".join(map(str, empty[:_LISTED]))
        raise PromptFileError(
            f"{location} has no prompt in {len(empty)} rows of column {column!r}: {listed}",
            repair="remove these rows, or name another column",
        )
    repeats = [text for place, text in enumerate(texts) if text in texts[:place]]
    return PromptTable(tuple(dict.fromkeys(texts)), tuple(repeats))


def refuse_repeats(location: str, table: PromptTable) -> NoReturn:
    """Name the prompts that a table has more than once.

    Raises:
        PromptFileError: Always.
    """
    listed = "".join(f"\n  - {text!r}" for text in table.repeats[:_LISTED])
    more = len(table.repeats) - _LISTED
    raise PromptFileError(
        f"{location} has {len(table.repeats)} prompts again that it had before:{listed}"
        + (f"\n  and {more} more like these" if more > 0 else ""),
        repair="say --drop-repeats to keep each once, or correct the table",
    )


def _rows(location: str) -> list[list[str]]:
    suffix = Path(location).suffix.lower()
    if suffix not in _DELIMITERS:
        raise PromptFileError(
            f"{location} is no table that can be read",
            repair=f"give a file whose name ends in {', '.join(_DELIMITERS)}",
        )
    try:
        text = local_file(location).read_text(encoding="utf-8-sig")
        table, delimiter = io.StringIO(text, newline=""), _DELIMITERS[suffix]
        if delimiter == "\t":
            # Where a tab divides, a quote is a character like any other.
            return list(csv.reader(table, delimiter=delimiter, quoting=csv.QUOTE_NONE))
        return list(csv.reader(table, delimiter=delimiter))
    except (UnicodeDecodeError, csv.Error) as error:
        raise PromptFileError(
            f"{location} is not a table in UTF-8: {error}", repair="save it as UTF-8"
        ) from error
