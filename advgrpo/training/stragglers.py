"""Detection of training processes that are slower than the others."""

import logging
import statistics

import torch

from advgrpo.runtime.process_group import ProcessGroup
from advgrpo.telemetry.logging import event

_IN_A_ROW = 3
_LEAST_SECONDS = 1.0

logger = logging.getLogger("advgrpo")


class Stragglers:
    """Compares the seconds that processes work on their shares of a rollout, without waiting.

    Args:
        process_group: The training processes.
        slow_ratio: A process is slow if it takes this multiple of the median.
    """

    def __init__(self, process_group: ProcessGroup, *, slow_ratio: float) -> None:
        self._process_group, self._slow_ratio = process_group, slow_ratio
        self._slow: tuple[int, int] = (0, 0)
        """The slowest rank, and in how many rollouts in a row."""

    def metrics(self, busy_seconds: float) -> dict[str, float]:
        """Compare the processes; every rank must call it.

        A process that was slow in three rollouts in a row is logged.

        Args:
            busy_seconds: Of this process.

        Returns:
            The slowest process's time in multiples of the median, and its rank; nothing for a
            single process.
        """
        if self._process_group.world_size == 1:
            return {}
        # On the device, because NCCL gathers GPU tensors only.
        mine = torch.tensor([busy_seconds], dtype=torch.float64, device=self._process_group.device)
        seconds = self._process_group.gather(mine).tolist()
        rank = max(range(len(seconds)), key=seconds.__getitem__)
        # The lower median: of two processes, the slow one must not be compared with itself.
        middle = statistics.median_low(seconds)
        ratio = seconds[rank] / middle if middle > 0 else 1.0
        self._count(rank, ratio, seconds[rank] - middle)
        return {"cost/slowest_rank_ratio": ratio, "cost/slowest_rank": float(rank)}

    def _count(self, rank: int, ratio: float, seconds: float) -> None:
        # Short rollouts have large ratios by chance.
        if ratio < self._slow_ratio or seconds < _LEAST_SECONDS:
            self._slow = (rank, 0)
            return
        before = self._slow[1] if self._slow[0] == rank else 0
        self._slow = (rank, before + 1)
        # Equal, not at least: a rank that stays slow is logged once.
        if self._slow[1] == _IN_A_ROW and self._process_group.is_first:
            logger.warning(
                "rank %d took %.1f times the median time for its images, in %d rollouts in a row, "
                "and the others wait for it: check the load and the GPU of its machine; "
                "training.hangs.slow_ratio sets the threshold of this warning",
                rank,
                ratio,
                _IN_A_ROW,
                extra=event("straggler", slow_rank=rank, ratio=round(ratio, 2)),
            )
