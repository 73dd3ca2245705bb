"""SIGTERM and Ctrl-C: finish the microbatch, save, and say that the run can be taken up again."""

import signal
from types import FrameType

from advgrpo.errors import Preempted
from advgrpo.runtime.process_group import ProcessGroup


class StopSignal:
    """Remembers that this process was asked to stop.

    Args:
        process_group: The training processes; they stop together.
    """

    def __init__(self, process_group: ProcessGroup) -> None:
        self._process_group = process_group
        self._asked = False

    def listen(self) -> None:
        """Take SIGTERM and SIGINT from now on."""
        signal.signal(signal.SIGTERM, self._ask)
        signal.signal(signal.SIGINT, self._ask)

    def _ask(self, _number: int, _frame: FrameType | None) -> None:
        self._asked = True

    def check(self) -> None:
        """Stop if any rank was asked to; all ranks must call it at the same point.

        Raises:
            Preempted: On all ranks alike.
        """
        if self._process_group.all_reduce_max(float(self._asked)) > 0:
            raise Preempted(
                "training was asked to stop; its state is saved",
                repair="start it again with the same settings to go on",
            )
