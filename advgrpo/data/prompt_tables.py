"""Prompts in published tables such as PartiPrompts and DrawBench."""

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
    """The prompts in one column of a table."""

    prompts: tuple[str, ...]
    """Distinct prompts in the order of the table, with runs of white space as single spaces."""

    repeats: tuple[str, ...]
    """Repeated prompts, one entry per repetition."""


def read_prompt_table(location: str, column: str) -> PromptTable:
    """Read the prompts in a column of a table.

    Args:
        location: A `.csv` or `.tsv` file in UTF-8 whose first row names the columns, or a `.jsonl`
            file of objects, whose keys are the columns; a local path or `s3://bucket/key`.
        column: Name of the column with the prompts.

    Raises:
        PromptFileError: If the file is not such a table, lacks the column, or has a row without a
            prompt.
        StorageError: If the file cannot be read.
    """
    rows = _rows(location)
    names = rows[0] if rows else []
    if column not in names:
        raise PromptFileError(
            f"{location} has no column {column!r}; it has {', '.join(map(repr, names)) or 'none'}",
            repair="set --column to the column with the prompts",
        )
    place = names.index(column)
    # A quoted field may span lines, but a prompt file has one prompt a line. Blank lines give empty
    # rows.
    texts = [" ".join(row[place].split()) if len(row) > place else "" for row in rows[1:] if row]
    # Rows are counted as a spreadsheet shows them, with the header as row 1.
    first = 1 if location.lower().endswith(_OBJECTS) else 2
    if empty := [number for number, text in enumerate(texts, first) if not text]:
        listed = ", ".join(map(str, empty[:_LISTED]))
        raise PromptFileError(
            f"{location} has no prompt in {len(empty)} rows of column {column!r}: {listed}",
            repair="remove these rows, or set --column to another column",
        )
    counts = Counter(texts)
    # Counter subtraction drops counts of 0, so each repeated prompt is left once per repetition.
    repeats = tuple((counts - Counter(counts.keys())).elements())
    # A Counter keeps the order of first occurrence.
    return PromptTable(tuple(counts), repeats)


def read_any_prompts(location: str, column: str) -> PromptSet:
    """Read a prompt file or a table, depending on the suffix of its name.

    Args:
        location: A `.csv`, `.tsv` or `.jsonl` table, or a text file with one prompt per line.
        column: Column with the prompts, for a table.

    Raises:
        PromptFileError: If the file cannot be used or has repeated prompts.
        StorageError: If the file cannot be read.
    """
    if Path(location).suffix.lower() not in (*_DELIMITERS, _OBJECTS):
        return read_prompts(location)
    table = read_prompt_table(location, column)
    if table.repeats:
        refuse_repeats(location, table, repair="remove the repetitions")
    return checked_prompts(
        table.prompts, where=location, unit="prompt", repair="edit these prompts", location=location
    )


def refuse_repeats(
    location: str,
    table: PromptTable,
    *,
    repair: str = "add --drop-repeats to keep each prompt once, or remove the repetitions",
) -> NoReturn:
    """Raise the error for a table with repeated prompts.

    Raises:
        PromptFileError: Always. Lists the first dozen.
    """
    listed = "".join(f"\n  - {text!r}" for text in table.repeats[:_LISTED])
    more = len(table.repeats) - _LISTED
    raise PromptFileError(
        f"{location} repeats {len(table.repeats)} prompts:{listed}"
        + (f"\n  and {more} more" if more > 0 else ""),
        repair=repair,
    )


def _rows(location: str) -> list[list[str]]:
    suffix = Path(location).suffix.lower()
    if suffix not in (*_DELIMITERS, _OBJECTS):
        raise PromptFileError(
            f"{location} is not a supported table",
            repair=f"use a file whose name ends in {', '.join((*_DELIMITERS, _OBJECTS))}",
        )
    try:
        # Spreadsheet programs write a byte order mark, which would become part of the first
        # column's name.
        text = local_file(location).read_text(encoding="utf-8-sig")
        if suffix == _OBJECTS:
            return _rows_of_objects(text)
        # The csv module needs untranslated line ends within quoted fields.
        table, delimiter = io.StringIO(text, newline=""), _DELIMITERS[suffix]
        if delimiter == "\t":
            # TSV files do not quote fields, so a quotation mark is part of the prompt.
            return list(csv.reader(table, delimiter=delimiter, quoting=csv.QUOTE_NONE))
        return list(csv.reader(table, delimiter=delimiter))
    except (UnicodeDecodeError, csv.Error) as error:
        raise PromptFileError(
            f"{location} is not a table in UTF-8: {error}", repair="save it as UTF-8"
        ) from error
    # After the errors above: UnicodeDecodeError is a ValueError, too.
    except ValueError as error:
        raise PromptFileError(
            f"{location} is not JSON with one object per line: {error}",
            repair='write lines such as {"prompt": "a cat"}',
        ) from error


def _rows_of_objects(text: str) -> list[list[str]]:
    """Convert JSON objects, one per line, to rows; the first row has all keys."""
    objects: list[dict[str, object]] = []
    # Not splitlines(), which also splits at characters that JSON strings may contain, such as
    # U+2028.
    for number, line in enumerate(text.split("\n"), start=1):
        entry = load_json(line) if line.strip() else {}
        if not isinstance(entry, dict):
            raise ValueError(f"line {number} is {line[:_SHOWN]!r}")
        objects += [entry] if entry else []
    # Objects may lack keys, so the columns are those of all objects.
    names = list(dict.fromkeys(name for entry in objects for name in entry))
    values = ([entry.get(name, "") for name in names] for entry in objects)
    return [names, *([v if isinstance(v, str) else "" for v in row] for row in values)]
