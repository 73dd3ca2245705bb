"""TensorBoard as a further logger."""

import io
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import PIL.Image
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from torch.utils.tensorboard import SummaryWriter

from advgrpo.storage.files import is_remote, list_files, read_bytes, write_bytes
from advgrpo.storage.locations import join

_UPLOAD_SECONDS = 120.0


class TensorBoard:
    """Writer of an event file, which skips what earlier ones in the folder have.

    Args:
        folder: Local path or `s3://` location, to which the file is copied every two minutes.

    Raises:
        StorageError: If the folder cannot be read.
    """

    def __init__(self, folder: str) -> None:
        self._scratch = TemporaryDirectory()
        self._remote = folder if is_remote(folder) else ""
        # A resumed training logs its history again.
        self._recorded = set(_recorded(folder, Path(self._scratch.name, "earlier")))
        local = Path(self._scratch.name, "events") if self._remote else folder
        self._writer, self._uploaded_at = SummaryWriter(local), time.monotonic()

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Log metrics of an update; NaN and infinite values stay as they are."""
        for name in [name for name in values if self._is_new(name, step)]:
            self._writer.add_scalar(name, values[name], step)
        if self._remote and time.monotonic() - self._uploaded_at > _UPLOAD_SECONDS:
            self._upload()

    def picture(self, name: str, step: int, png: bytes) -> None:
        """Log a picture of an update."""
        if self._is_new(name, step):
            pixels = np.asarray(PIL.Image.open(io.BytesIO(png)))
            self._writer.add_image(name, pixels, step, dataformats="HWC")

    def close(self) -> None:
        """Write what is buffered."""
        self._writer.close()
        if self._remote:
            self._upload()
        self._scratch.cleanup()

    def _is_new(self, name: str, step: int) -> bool:
        is_new = (name, step) not in self._recorded
        self._recorded.add((name, step))
        return is_new

    def _upload(self) -> None:
        self._writer.flush()
        for file in Path(self._writer.log_dir).iterdir():
            write_bytes(join(self._remote, file.name), file.read_bytes())
        self._uploaded_at = time.monotonic()


def _recorded(folder: str, copy: Path) -> Iterator[tuple[str, int]]:
    for file in list_files(folder):
        copy.write_bytes(read_bytes(join(folder, file)))
        # Stops at an event that a kill has truncated.
        for event in EventFileLoader(str(copy)).Load():
            yield from ((value.tag, event.step) for value in event.summary.value)
