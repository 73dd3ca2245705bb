"""Loggers of a training besides MLflow: the setting `tracking.also`."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pkgutil import resolve_name
from typing import Protocol

from advgrpo.errors import AdvGrpoError, ConfigError, TrackingError

_CLASSES = {
    "tensorboard": "advgrpo.tracking.tensorboard:TensorBoard",
    "wandb": "advgrpo.tracking.wandb:WeightsAndBiases",
}
_REPAIRS = {
    "tensorboard": "check the workspace, its credentials and AWS_ENDPOINT_URL",
    "wandb": "run `wandb login` or set WANDB_API_KEY; without a network set WANDB_MODE=offline, "
    "and send the run later with `wandb sync`",
}

logger = logging.getLogger("advgrpo")


class FurtherLogger(Protocol):
    """Destination of metrics and pictures, some of which are logged again after an interruption."""

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Log metrics of an update."""
        ...

    def picture(self, name: str, step: int, png: bytes) -> None:
        """Log a picture of an update."""
        ...

    def close(self) -> None:
        """Write what is buffered."""
        ...


def check_further_loggers(names: Sequence[str]) -> None:
    """Check that the packages of loggers are installed.

    Raises:
        ConfigError: If one is not.
    """
    for name in names:
        if find_spec(name) is None:
            raise ConfigError(
                f"tracking.also={name}: needs the package {name}, which is not installed",
                repair=f"pip install 'advgrpo[{name}]', or remove {name} from tracking.also",
            )


@contextmanager
def further_loggers(
    names: Sequence[str], *, folder: str, key: str, settings: Mapping[str, object]
) -> Iterator[list[FurtherLogger]]:
    """Open loggers for the duration of the block.

    One that fails later is dropped with a warning; training continues.

    Args:
        names: The setting `tracking.also`.
        folder: Local path or `s3://` location for TensorBoard.
        key: Id of the training, the same after an interruption.
        settings: Settings of the training.

    Raises:
        TrackingError: If one cannot be opened.
    """
    arguments: dict[str, tuple[object, ...]] = {
        "tensorboard": (folder,),
        "wandb": (key, settings),
    }
    opened: list[FurtherLogger] = []
    with ExitStack() as stack:
        for name in names:
            each = _Guarded(name, _open(name, arguments[name]))
            stack.callback(each.close)
            opened.append(each)
        yield opened


def _open(name: str, arguments: tuple[object, ...]) -> FurtherLogger:
    try:
        # By name: its module imports packages that need not be installed, and load slowly.
        opened: FurtherLogger = resolve_name(_CLASSES[name])(*arguments)
    except AdvGrpoError:
        raise
    # Each package has exceptions of its own.
    except Exception as error:
        raise TrackingError(
            f"tracking.also={name}: cannot be opened: {error}", repair=_REPAIRS[name]
        ) from error
    return opened


class _Guarded:
    """A logger whose failures do not reach training."""

    def __init__(self, name: str, target: FurtherLogger) -> None:
        self._name, self._target, self._failed = name, target, False

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        self._try(lambda: self._target.metrics(values, step))

    def picture(self, name: str, step: int, png: bytes) -> None:
        self._try(lambda: self._target.picture(name, step, png))

    def close(self) -> None:
        self._try(self._target.close)

    def _try(self, call: Callable[[], None]) -> None:
        if self._failed:
            return
        try:
            call()
        except Exception as error:  # noqa: BLE001 - training must not end with it
            self._failed = True
            logger.warning("%s failed and gets nothing more: %s", self._name, error)
