"""TensorBoard as a further logger."""

import io
from collections.abc import Iterator, Mapping

import numpy as np
import PIL.Image
from tensorboard.backend.event_processing import event_file_loader, io_wrapper
from tensorboard.compat import tf
from torch.utils.tensorboard import SummaryWriter

from advgrpo.storage.write_guard import check_may_write


class TensorBoard:
    """Writer of event files, which skips what the folder has already.

    Args:
        folder: Local path or `s3://` location, which TensorBoard writes by itself, every two
            minutes.

    Raises:
        ConfigError: If this process may not write to `folder`.
        Exception: If the folder cannot be read or written.
    """

    def __init__(self, folder: str) -> None:
        if "://" in folder:
            check_may_write(folder)
        # A resumed training logs its history again.
        self._recorded = set(_recorded(folder))
        self._writer = SummaryWriter(folder)

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Log metrics of an update; NaN and infinite values stay as they are."""
        for name, value in values.items():
            if self._is_new(name, step):
                self._writer.add_scalar(name, value, step)

    def picture(self, name: str, step: int, png: bytes) -> None:
        """Log a picture of an update."""
        if self._is_new(name, step):
            pixels = np.asarray(PIL.Image.open(io.BytesIO(png)))
            self._writer.add_image(name, pixels, step, dataformats="HWC")

    def close(self) -> None:
        """Write what is buffered."""
        self._writer.close()

    def _is_new(self, name: str, step: int) -> bool:
        is_new = (name, step) not in self._recorded
        self._recorded.add((name, step))
        return is_new


def _recorded(folder: str) -> Iterator[tuple[str, int]]:
    files = io_wrapper.ListDirectoryAbsolute(folder) if tf.io.gfile.isdir(folder) else []
    for file in filter(io_wrapper.IsTensorFlowEventsFile, files):
        # Stops at an event that a kill has truncated.
        for event in event_file_loader.EventFileLoader(file).Load():
            yield from ((value.tag, event.step) for value in event.summary.value)
