"""Columns of Parquet files, and of the Arrow files of a Hugging Face dataset on disk."""

from pathlib import Path

from advgrpo.data.prompt_text import Numbered
from advgrpo.data.prompts import refuse
from advgrpo.errors import PromptFileError


def column_of_arrow(file: Path, column: str, location: str) -> list[Numbered]:
    """Return a column of texts with the numbers of its rows, from 1; empty where it has none.

    Args:
        file: A `.parquet` file, or an `.arrow` file as `Dataset.save_to_disk` writes it.
        column: Name of the column.
        location: Source of the file, for errors.

    Raises:
        PromptFileError: If the file is damaged, lacks the column, or has other values than texts.
    """
    # The extra `parquet`.
    import pyarrow as pa  # noqa: PLC0415
    from pyarrow import ipc, parquet  # noqa: PLC0415

    try:
        if file.suffix == ".parquet":
            names = parquet.read_schema(file).names
            # Only this column: datasets of images have large ones.
            values = parquet.read_table(file, columns=[column])[column] if column in names else None
        else:
            with pa.memory_map(str(file)) as source, ipc.open_stream(source) as reader:
                names = reader.schema.names
                values = reader.read_all()[column] if column in names else None
    except (pa.ArrowException, OSError) as error:
        raise PromptFileError(
            f"{location} cannot be read: {error}", repair="export or download it again"
        ) from error
    if values is None:
        raise PromptFileError(
            f"{location} has no column {column!r}; it has {', '.join(map(repr, names)) or 'none'}",
            repair="set --column to the column with the prompts",
        )
    texts = values.to_pylist()
    wrong = [
        f"row {number} has a {type(value).__name__}"
        for number, value in enumerate(texts, start=1)
        if not isinstance(value, str | None)
    ]
    if wrong:
        refuse(f"{location}: column {column!r} has other values than texts", wrong, repair="")
    return [(number, value or "") for number, value in enumerate(texts, start=1)]
