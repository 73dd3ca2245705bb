"""Prompts in published tables such as PartiPrompts and DrawBench."""

import csv
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from advgrpo.data.prompt_text import (
    BYTE_ORDER_MARK,
    Numbered,
    encoder_key,
    find_fault,
    group_equal,
    shown,
)
from advgrpo.data.prompts import checked_prompts, read_prompts, refuse, split_lines
from advgrpo.errors import PromptFileError
from advgrpo.records import PromptSet
from advgrpo.storage.fetch import local_file
from advgrpo.strict_json import load_json

_DELIMITERS = {".tsv": "\t", ".tab": "\t", ".csv": ","}
_OBJECTS = ".jsonl"
_TABLES = (*_DELIMITERS, _OBJECTS)
_LISTED = 12

_TO_QUOTE = (
    'put fields with commas into quotation marks, as in "a cat, a dog", write a quotation mark '
    "within one twice, and close each"
)
_NOT_QUOTED = (
    "remove the quotation marks around the fields, and write those within them once; or convert "
    "the file to .csv with commas"
)
# The text within quotation marks of a CSV field, in which one is written twice.
_QUOTED = re.compile(r'"((?:[^"]|"")*)"')

Row = tuple[int, list[str]]
"""Line that a row begins in, and its fields."""


@dataclass(frozen=True)
class PromptTable:
    """The prompts of a file, in groups that a text encoder does not tell apart."""

    groups: tuple[tuple[Numbered, ...], ...]
    """Lines and prompts, in the order of the file; in tables, runs of white space are single
    spaces."""

    @property
    def first(self) -> list[Numbered]:
        """The first of each group, with its line."""
        return [group[0] for group in self.groups]

    @property
    def prompts(self) -> tuple[str, ...]:
        """Distinct prompts."""
        return tuple(text for _, text in self.first)

    @property
    def repeats(self) -> tuple[str, ...]:
        """Repeated prompts, one entry per repetition."""
        return tuple(text for group in self.groups for _, text in group[1:])


def read_prompt_table(
    location: str, column: str, *, strip_byte_order_marks: bool = False
) -> PromptTable:
    """Read the prompts in a column of a table.

    Args:
        location: A `.csv` or `.tsv` file in UTF-8 whose first row names the columns, or a `.jsonl`
            file of objects, whose keys are the columns; a local path or `s3://bucket/key`.
        column: Name of the column with the prompts.
        strip_byte_order_marks: Remove U+FEFF from prompts instead of refusing them.

    Raises:
        PromptFileError: If the file is not such a table, lacks the column, or has a row without a
            prompt or with another number of fields than the header. Lists the lines.
        StorageError: If the file cannot be read.
    """
    suffix = Path(location).suffix.lower()
    if suffix not in _TABLES:
        raise PromptFileError(
            f"{location} is not a supported table",
            repair=f"use a file whose name ends in {', '.join(_TABLES)}",
        )
    try:
        # Spreadsheet programs write a byte order mark, which would become part of the first
        # column's name.
        text = local_file(location).read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise PromptFileError(
            f"{location} is not a table in UTF-8: {error}", repair="save it as UTF-8"
        ) from error
    if suffix == _OBJECTS:
        prompts = _column_of_objects(text, column, location)
    else:
        prompts = _column(text, _DELIMITERS[suffix], column, location)
    # A quoted field may span lines, but a prompt file has one prompt a line.
    prompts = [(line, " ".join(prompt.split())) for line, prompt in prompts]
    return _grouped(prompts, location, strip_byte_order_marks, unit=f"column {column!r} of line")


def read_prompt_list(
    location: str, column: str, *, strip_byte_order_marks: bool = False
) -> PromptTable:
    """Read a prompt file or, depending on the suffix of its name, a table, with repetitions.

    Raises:
        PromptFileError: If the file cannot be used; it may have repeated prompts.
        StorageError: If the file cannot be read.
    """
    if _is_table(location):
        return read_prompt_table(location, column, strip_byte_order_marks=strip_byte_order_marks)
    lines = split_lines(local_file(location).read_bytes(), location)
    return _grouped(lines, location, strip_byte_order_marks, unit="line")


def without(table: PromptTable, other: PromptTable) -> PromptTable:
    """Return a table without the prompts that another one has, too, to a text encoder."""
    excluded = {encoder_key(text) for text in other.prompts}
    kept = (group for group in table.groups if encoder_key(group[0][1]) not in excluded)
    return PromptTable(tuple(kept))


def read_any_prompts(location: str, column: str) -> PromptSet:
    """Read a prompt file or a table, depending on the suffix of its name.

    Prompts that differ in case or white space are different here.

    Args:
        location: A `.csv`, `.tsv` or `.jsonl` table, or a text file with one prompt per line.
        column: Column with the prompts, for a table.

    Raises:
        PromptFileError: If the file cannot be used or has repeated prompts.
        StorageError: If the file cannot be read.
    """
    if not _is_table(location):
        return read_prompts(location, key=str)
    found = read_prompt_table(location, column)
    return checked_prompts(
        sorted(prompt for group in found.groups for prompt in group),
        where=location,
        unit="line",
        repair="remove the repetitions",
        location=location,
        key=str,
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
    repeats = [
        f"line {line}: {shown(text)} is line {group[0][0]}"
        + ("" if text == group[0][1] else f", {shown(group[0][1])}, to a text encoder")
        for group in table.groups
        for line, text in group[1:]
    ]
    refuse(f"{location} repeats {len(repeats)} prompts", repeats, repair=repair)


def _is_table(location: str) -> bool:
    return Path(location).suffix.lower() in _TABLES


def _grouped(
    prompts: Sequence[Numbered], location: str, strip_byte_order_marks: bool, *, unit: str
) -> PromptTable:
    if strip_byte_order_marks:
        prompts = [(line, text.replace(BYTE_ORDER_MARK, "").strip()) for line, text in prompts]
    faults = [f"{unit} {line} {fault}" for line, text in prompts if (fault := find_fault(text))]
    if faults:
        repair = "remove or correct these lines"
        if any(BYTE_ORDER_MARK in text for _, text in prompts):
            repair += "; `advgrpo prompts import --strip-byte-order-marks` removes U+FEFF"
        refuse(f"{location} cannot be used", faults, repair=repair)
    return PromptTable(tuple(tuple(group) for group in group_equal(prompts, encoder_key)))


def _column(text: str, delimiter: str, column: str, location: str) -> list[Numbered]:
    rows = list(_rows(text, delimiter, location))
    names = rows[0][1] if rows else []
    place = _place(names, column, delimiter, location)
    wrong = [
        f"line {line} has {len(row)} instead of {len(names)} fields"
        for line, row in rows[1:]
        if len(row) != len(names)
    ]
    if wrong:
        repair = "write one tab between two fields, and none within" if delimiter == "\t" else ""
        refuse(f"{location} cannot be used", wrong, repair=repair or _TO_QUOTE)
    prompts = [(line, row[place]) for line, row in rows[1:]]
    if delimiter == "\t":
        _refuse_quoted(prompts, location)
    return prompts


def _rows(text: str, delimiter: str, location: str) -> Iterator[Row]:
    """Yield the rows that are not blank."""
    # TSV files do not quote fields, so a quotation mark is part of the prompt.
    is_quoted = delimiter != "\t"
    # Strict: else an unclosed quotation mark makes all following rows part of one field.
    reader = csv.reader(
        io.StringIO(text, newline=""),
        delimiter=delimiter,
        quoting=csv.QUOTE_MINIMAL if is_quoted else csv.QUOTE_NONE,
        strict=True,
    )
    columns = 0
    while True:
        first = reader.line_num + 1
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise PromptFileError(
                f"{location} is not a valid table: the row from line {first} to line "
                f"{reader.line_num} cannot be read: {_explain(error)}",
                repair=_TO_QUOTE,
            ) from error
        columns = columns or len(row)
        if _looks_like_rows(row, columns, delimiter):
            raise PromptFileError(
                f"{location} cannot be used: because of a quotation mark, a field of the row from "
                f"line {first} to line {reader.line_num} looks like several rows",
                repair=f"write the field on one line, or {_TO_QUOTE}",
            )
        if row:
            yield first, row


def _looks_like_rows(row: Sequence[str], columns: int, delimiter: str) -> bool:
    """Return whether two unclosed quotation marks may have closed each other.

    The field then starts with the rest of one row and ends with the start of another.
    """
    for place, field in enumerate(row):
        lines = re.split("\r\n?|\n", field)
        is_end = len(lines) > 1 and lines[0].count(delimiter) >= columns - 1 - place
        if is_end and lines[-1].count(delimiter) >= place:
            # A table of one column has no delimiters to tell by.
            return columns > 1
    return False


def _explain(error: csv.Error) -> str:
    text = str(error)
    if text == "unexpected end of data":
        return "a quotation mark is never closed"
    if text.endswith("expected after '\"'"):
        return "a quotation mark within a quoted field is not written twice"
    if "field limit" in text:
        return f"a field has more than {csv.field_size_limit()} characters"
    return text


def _place(names: Sequence[str], column: str, delimiter: str, location: str) -> int:
    places = [place for place, name in enumerate(names) if name == column]
    if len(places) > 1:
        listed = " and ".join(str(place + 1) for place in places)
        raise PromptFileError(
            f"{location} names several columns {column!r}: columns {listed}",
            repair="rename all but the one with the prompts",
        )
    if places:
        return places[0]
    listed = ", ".join(map(repr, names)) or "none"
    others = [
        mark for mark in ";\t,|" if mark != delimiter and len(names) == 1 and mark in names[0]
    ]
    if others:
        raise PromptFileError(
            f"{location} has no column {column!r} but one named {listed}: its columns seem to be "
            f"separated by {others[0]!r} instead of {delimiter!r}",
            repair="save it with commas as .csv, or with tabs as .tsv",
        )
    raise PromptFileError(
        f"{location} has no column {column!r}; it has {listed}",
        repair="set --column to the column with the prompts",
    )


def _refuse_quoted(prompts: Sequence[Numbered], location: str) -> None:
    """Raise an error if a TSV file quotes its fields, as programs for CSV do."""
    quoted = [(line, match[1]) for line, text in prompts if (match := _QUOTED.fullmatch(text))]
    # A prompt may be a quotation. One that doubles its marks, or a column of them, is not.
    doubled = [line for line, text in quoted if '""' in text]
    if doubled or (quoted and len(quoted) == len(prompts)):
        lines = doubled or [line for line, _ in quoted]
        refuse(
            f"{location} quotes its fields, although its columns are separated by tabs",
            [f"line {line}" for line in lines],
            repair=_NOT_QUOTED,
        )


def _column_of_objects(text: str, column: str, location: str) -> list[Numbered]:
    names: dict[str, None] = {}
    prompts: list[Numbered] = []
    problems: list[str] = []
    # Not splitlines(), which also splits at characters that JSON strings may contain, such as
    # U+2028.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            entry = load_json(line)
        except ValueError as error:
            problems.append(f"line {number}: {error}")
            continue
        if not isinstance(entry, dict):
            problems.append(f"line {number} is {shown(line.strip())}")
            continue
        # Objects may lack keys, so the columns are those of all objects.
        names |= dict.fromkeys(entry)
        value = entry.get(column, "")
        if isinstance(value, str):
            prompts.append((number, value))
        else:
            problems.append(f"line {number}: the value of {column!r} is not a text")
    if problems:
        refuse(
            f"{location} is not JSON with one object per line",
            problems,
            repair=f'write lines such as {{"{column}": "a cat"}}',
        )
    if column not in names:
        _place(list(names), column, "", location)
    return prompts
