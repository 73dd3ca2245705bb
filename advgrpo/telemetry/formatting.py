"""Durations and tables as text."""

from collections.abc import Collection, Iterable, Sequence


def format_duration(seconds: float) -> str:
    """Return a duration in its two largest units, for instance `3 min 05 s`."""
    if seconds < 10:
        return f"{max(seconds, 0.0):.1f} s"
    # Rounded before the division, or 59.6 s would become 60 s and not 1 min 00 s.
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def format_table(rows: Sequence[Sequence[str]], *, right: Collection[int] = ()) -> list[str]:
    """Align the columns of a table.

    Args:
        rows: Cells of each row; equally many.
        right: Positions of the columns that are aligned to the right.

    Returns:
        One line per row, without trailing spaces.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if position in right else cell.ljust(width)
            for position, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return the lines of a Markdown table; cells must not contain `|`."""
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]
