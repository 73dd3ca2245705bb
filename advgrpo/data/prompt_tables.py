"""Prompts out of tables that others publish: PartiPrompts, DrawBench and the like."""

import csv
import io
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from advgrpo.data.prompts import checked_prompts, read_prompts
from advgrpo.errors import PromptFileError
from advgrpo.records import PromptSet
from advgrpo.storage.fetch import local_file
from advgrpo.strict_json import load_json

_DELIMITERS = {".tsv": "\t", ".tab": "\t", ".csv": ","}
_OBJECTS = ".jsonl"
_LISTED = 12
_SHOWN = 60


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
        location: A `.csv` or `.tsv` file in UTF-8 whose first row names the columns, or a `.jsonl`
            file of objects, whose keys are the columns; a local path or `s3://bucket/key`.
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
    first = 1 if location.lower().endswith(_OBJECTS) else 2
    if empty := [number for number, text in enumerate(texts, first) if not text]:
        listed = ", ".join(map(str, empty[:_LISTED]))
        raise PromptFileError(
            f"{location} has no prompt in {len(empty)} rows of column {column!r}: {listed}",
            repair="remove these rows, or name another column",
        )
    counts = Counter(texts)
    repeats = tuple((counts - Counter(counts.keys())).elements())
    return PromptTable(tuple(counts), repeats)


def read_any_prompts(location: str, column: str) -> PromptSet:
    """Read a prompt file, or a table by the ending of its name.

    Args:
        location: A `.csv`, `.tsv` or `.jsonl` table, or a text file with one prompt a line.
        column: Of a table, the column that holds the prompts.

    Raises:
        PromptFileError: If it cannot be used, or has a prompt twice.
        StorageError: If it cannot be read.
    """
    if Path(location).suffix.lower() not in (*_DELIMITERS, _OBJECTS):
        return read_prompts(location)
    table = read_prompt_table(location, column)
    if table.repeats:
        refuse_repeats(location, table, repair="remove the repeats")
    return checked_prompts(
        table.prompts, where=location, unit="prompt", repair="correct the table", location=location
    )


def refuse_repeats(
    location: str,
    table: PromptTable,
    *,
    repair: str = "say --drop-repeats to keep each once, or correct the table",
) -> NoReturn:
    """Name the prompts that a table has more than once.

    Raises:
        PromptFileError: Always.
    """
    listed = "".join(f"\n  - {text!r}" for text in table.repeats[:_LISTED])
    more = len(table.repeats) - _LISTED
    raise PromptFileError(
        f"{location} has {len(table.repeats)} prompts again that it had before:{listed}"
        + (f"\n  and {more} more like these" if more > 0 else ""),
        repair=repair,
    )


def _rows(location: str) -> list[list[str]]:
    suffix = Path(location).suffix.lower()
    if suffix not in (*_DELIMITERS, _OBJECTS):
        raise PromptFileError(
            f"{location} is no table that can be read",
            repair=f"give a file whose name ends in {', '.join((*_DELIMITERS, _OBJECTS))}",
        )
    try:
        text = local_file(location).read_text(encoding="utf-8-sig")
        if suffix == _OBJECTS:
            return _rows_of_objects(text)
        table, delimiter = io.StringIO(text, newline=""), _DELIMITERS[suffix]
        if delimiter == "\t":
            # Where a tab divides, a quote is a character like any other.
            return list(csv.reader(table, delimiter=delimiter, quoting=csv.QUOTE_NONE))
        return list(csv.reader(table, delimiter=delimiter))
    except (UnicodeDecodeError, csv.Error) as error:
        raise PromptFileError(
            f"{location} is not a table in UTF-8: {error}", repair="save it as UTF-8"
        ) from error
    except ValueError as error:
        raise PromptFileError(
            f"{location} is not JSON, an object a line: {error}",
            repair='write lines such as {"prompt": "a cat"}',
        ) from error


def _rows_of_objects(text: str) -> list[list[str]]:
    """Turn objects, one a line, into rows under a row of all their keys."""
    objects: list[dict[str, object]] = []
    for number, line in enumerate(text.split("\n"), start=1):
        entry = load_json(line) if line.strip() else {}
        if not isinstance(entry, dict):
            raise ValueError(f"line {number} is {line[:_SHOWN]!r}")
        objects += [entry] if entry else []
    names = list(dict.fromkeys(name for entry in objects for name in entry))
    values = ([entry.get(name, "") for name in names] for entry in objects)
    return [names, *([v if isinstance(v, str) else "" for v in row] for row in values)]
