"""Metrics of a training in other processes, passed to a callback of this one."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event, Thread

from advgrpo.tracking.further_loggers import FurtherLogger
from advgrpo.training.held_out import Logger

_POLL_SECONDS = 0.2

OnMetrics = Callable[[int, dict[str, float]], None]


class CopyingLogger:
    """A logger that also passes metrics and pictures to other ones.

    Args:
        logger: Receives everything.
        file: Receives the metrics, as JSON lines.
        others: Receive metrics and pictures.
    """

    def __init__(
        self, logger: Logger, file: Path | None, others: Sequence[FurtherLogger] = ()
    ) -> None:
        self._logger, self._file, self._others = logger, file, others
        self.tags, self.unsent_pictures = logger.tags, logger.unsent_pictures

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Log metrics of an update."""
        self._logger.metrics(values, step)
        for other in self._others:
            other.metrics(values, step)
        if self._file is not None:
            with self._file.open("a", encoding="utf-8") as file:
                file.write(json.dumps([step, dict(values)]) + "\n")

    def picture(self, name: str, step: int, png: bytes) -> None:
        """Log a picture of an update."""
        self._logger.picture(name, step, png)
        for other in self._others:
            other.picture(name, step, png)


@contextmanager
def streamed_metrics(callback: OnMetrics | None) -> Iterator[Path | None]:
    """Yield a file for a `CopyingLogger`, and call back with each of its lines in the meantime.

    Args:
        callback: Called in a thread with update and metrics; None yields None.

    Raises:
        Exception: The first one that the callback raised; it is not called again after it.
    """
    if callback is None:
        yield None
        return
    with TemporaryDirectory() as scratch:
        file = Path(scratch, "metrics.jsonl")
        file.touch()
        ended = Event()
        failures: list[Exception] = []
        reader = Thread(target=_read, args=(file, callback, ended, failures), daemon=True)
        reader.start()
        try:
            yield file
        finally:
            ended.set()
            reader.join()
    if failures:
        raise failures[0]


def _read(file: Path, callback: OnMetrics, ended: Event, failures: list[Exception]) -> None:
    with file.open(encoding="utf-8") as lines:
        rest = ""
        while True:
            # Read once more after the end, which may come between a read and the wait.
            is_last = ended.wait(_POLL_SECONDS)
            # The writer may be in the middle of a line.
            *complete, rest = (rest + lines.read()).split("\n")
            for line in complete:
                step, values = json.loads(line)
                try:
                    callback(step, values)
                except Exception as error:  # noqa: BLE001 - training must not end with it
                    failures.append(error)
                    return
            if is_last:
                return
