"""Prompts in published tables such as PartiPrompts and DrawBench."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from advgrpo.data.arrow_columns import column_of_arrow
from advgrpo.data.prompt_text import (
    BYTE_ORDER_MARK,
    Numbered,
    encoder_key,
    find_fault,
    group_equal,
    shown,
)
from advgrpo.data.prompts import checked_prompts, read_prompts, refuse, split_lines
from advgrpo.data.table_columns import column_of_objects, column_of_rows
from advgrpo.errors import PromptFileError
from advgrpo.records import PromptSet
from advgrpo.storage.fetch import local_file

_DELIMITERS = {".tsv": "\t", ".tab": "\t", ".csv": ","}
_OBJECTS = ".jsonl"
_ARROW = (".parquet", ".arrow")
_TABLES = (*_DELIMITERS, _OBJECTS, *_ARROW)


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
            file of objects, whose keys are the columns, or a `.parquet` or `.arrow` file; a local
            path, `s3://bucket/key` or `hub://datasets/owner/name/file@COMMIT`.
        column: Name of the column with the prompts.
        strip_byte_order_marks: Remove U+FEFF from prompts instead of refusing them.

    Raises:
        PromptFileError: If the file is not such a table, lacks the column, or has a row without a
            prompt or with another number of fields than the header. Lists the lines.
        StorageError: If the file cannot be read.
    """
    suffix = _suffix(location)
    if suffix not in _TABLES:
        raise PromptFileError(
            f"{location} is not a supported table",
            repair=f"use a file whose name ends in {', '.join(_TABLES)}",
        )
    if suffix in _ARROW:
        prompts = column_of_arrow(local_file(location), column, location)
    else:
        prompts = _column_of_text(location, suffix, column)
    # A quoted field may span lines, but a prompt file has one prompt a line.
    prompts = [(line, " ".join(prompt.split())) for line, prompt in prompts]
    return _grouped(prompts, location, strip_byte_order_marks, unit=f"column {column!r} of line")


def _column_of_text(location: str, suffix: str, column: str) -> list[Numbered]:
    try:
        # Spreadsheet programs write a byte order mark, which would become part of the first
        # column's name.
        text = local_file(location).read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise PromptFileError(
            f"{location} is not a table in UTF-8: {error}", repair="save it as UTF-8"
        ) from error
    if suffix == _OBJECTS:
        return column_of_objects(text, column, location)
    return column_of_rows(text, _DELIMITERS[suffix], column, location)


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
        location: A table of `read_prompt_table`, or a text file with one prompt per line.
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
    return _suffix(location) in _TABLES


def _suffix(location: str) -> str:
    # A commit follows the name of a hub's file.
    name = location.partition("@")[0] if location.startswith("hub://") else location
    return Path(name).suffix.lower()


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
