"""Graceful shutdown: SIGTERM and Ctrl-C end training after the microbatch."""

import signal
from types import FrameType

from advgrpo.errors import Preempted
from advgrpo.runtime.process_group import ProcessGroup


class StopSignal:
    """Whether this process received a signal to stop.

    Args:
        process_group: The training processes; they stop together.
    """

    def __init__(self, process_group: ProcessGroup) -> None:
        self._process_group = process_group
        self._received = False

    def listen(self) -> None:
        """Handle SIGTERM and SIGINT from now on."""
        # Python allows it in the main thread only.
        signal.signal(signal.SIGTERM, self._receive)
        signal.signal(signal.SIGINT, self._receive)

    def _receive(self, _number: int, _frame: FrameType | None) -> None:
        # Only a flag: a handler may run inside a collective, where nothing else is safe.
        self._received = True

    def check(self) -> None:
        """Stop if any rank received a signal; all ranks must call it at the same point.

        Raises:
            Preempted: On all ranks alike.
        """
        # Signals reach the ranks at different times; a rank that stopped alone would leave the
        # others waiting in a collective call.
        if self._process_group.all_reduce_max(float(self._received)) > 0:
            raise Preempted(
                "training was stopped by a signal; its state is saved",
                repair="start it again with the same settings to resume",
            )
