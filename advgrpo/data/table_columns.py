"""Columns of tables as CSV, TSV and JSON lines, with the line of each value."""

import csv
import io
import re
from collections.abc import Iterator, Sequence

from advgrpo.data.prompt_text import Numbered, shown
from advgrpo.data.prompts import refuse
from advgrpo.errors import PromptFileError
from advgrpo.strict_json import load_json

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


def column_of_rows(text: str, delimiter: str, column: str, location: str) -> list[Numbered]:
    """Return a column of a table whose first row names the columns.

    Args:
        text: The table.
        delimiter: A comma, or a tab: then fields are not quoted.
        column: Name of the column.
        location: Source of the table, for errors.

    Raises:
        PromptFileError: If the table lacks the column or would be misread. Names the lines.
    """
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


def column_of_objects(text: str, column: str, location: str) -> list[Numbered]:
    """Return the values of a key in JSON objects, one object per line; empty where it is missing.

    Args:
        text: The objects. Blank lines are ignored.
        column: The key.
        location: Source of the objects, for errors.

    Raises:
        PromptFileError: If a line is not an object, a value is not a text, or no object has the
            key. Names the lines.
    """
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
