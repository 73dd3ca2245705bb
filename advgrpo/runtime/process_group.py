"""The process group of training: its ranks and their collective calls."""

import os
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from advgrpo.errors import RankFailedError
from advgrpo.runtime.rank_status import RankMonitor

_TEXT_BYTES = 4000

# gloo raises a plain RuntimeError; only its text tells it from others.
_GLOO = "/gloo/transport/"


@contextmanager
def translate_rank_loss(describe_ranks: Callable[[], str] = lambda: "") -> Iterator[None]:
    """Raise `RankFailedError` for a collective call that fails because another rank was lost.

    Args:
        describe_ranks: Returns the status of all ranks for the message.

    Raises:
        RankFailedError: In place of the communication library's error.
    """
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and _GLOO not in str(error):
            raise
        ranks = _describe(describe_ranks)
        raise RankFailedError(
            f"another training process stopped responding: {error}"
            + (f" ({ranks})" if ranks else ""),
            repair="find the first failure in the logs of all machines; run it again to resume "
            "from the last checkpoint",
        ) from error


def _describe(describe_ranks: Callable[[], str]) -> str:
    try:
        return describe_ranks()
    except RuntimeError:  # The rank that serves the store is the one that was lost.
        return ""


class ProcessGroup:
    """The ranks of a training, seen from one of them; a single rank needs no launcher.

    Attributes:
        rank: Number of this process.
        world_size: Number of processes.
        device: Its GPU, or the CPU.
        monitor: The status of each rank.
    """

    def __init__(self) -> None:
        self.rank = int(os.environ.get("RANK", "0"))
        self.world_size = int(os.environ.get("WORLD_SIZE", "1"))
        if torch.cuda.is_available():
            self.device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
            # Otherwise whatever uses the default GPU would run on GPU 0 in every rank.
            torch.cuda.set_device(self.device)
        else:
            self.device = torch.device("cpu")
        self.monitor = RankMonitor(self.rank, self.world_size)
        self._waited_seconds = 0.0

    def connect(self, *, timeout_seconds: int = 1800) -> None:
        """Meet the other ranks, unless that was done: NCCL on GPUs, gloo on CPUs.

        Args:
            timeout_seconds: Limit of any wait for the others.
        """
        if dist.is_initialized():
            return
        if self.world_size == 1:
            # The rendezvous is read from the environment, even for a single process.
            os.environ.update(RANK="0", WORLD_SIZE="1", LOCAL_RANK="0", MASTER_ADDR="127.0.0.1")
            os.environ.setdefault("MASTER_PORT", str(free_port()))
        dist.init_process_group(
            "nccl" if self.device.type == "cuda" else "gloo",
            timeout=timedelta(seconds=timeout_seconds),
        )
        # Afterwards: the monitor uses the store of the default process group.
        self.monitor.connect()

    def busy_clock(self) -> float:
        """Return the seconds of a clock that stops while this process waits for the others."""
        return time.monotonic() - self._waited_seconds

    @contextmanager
    def _collective(self) -> Iterator[None]:
        self._finish_own_work()
        start = time.monotonic()
        # NCCL's calls return before they are done: waiting ends with the second synchronization.
        with self.monitor.waiting():
            yield
            self._finish_own_work()
        self._waited_seconds += time.monotonic() - start

    def _finish_own_work(self) -> None:
        # CUDA kernels run asynchronously: without this, their time would count as waiting.
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    @property
    def is_first(self) -> bool:
        """Whether this is rank 0, which logs and writes results."""
        return self.rank == 0

    def gather(self, values: Tensor) -> Tensor:
        """Concatenate the ranks' tensors, of equal shapes, along the first axis."""
        if self.world_size == 1:
            return values
        # all_gather fails on strided tensors.
        values = values.contiguous()
        parts = [torch.empty_like(values) for _ in range(self.world_size)]
        with self._collective():
            dist.all_gather(parts, values)
        return torch.cat(parts)

    def gather_in_order(
        self, values: Mapping[str, Tensor], positions: Sequence[int]
    ) -> dict[str, Tensor]:
        """Concatenate the ranks' images in the order of the rollout, on the CPU.

        Args:
            values: Tensors by name; the first axis counts this rank's images.
            positions: Positions of this rank's images in the rollout.
        """
        # NCCL gathers GPU tensors only; each result is moved back at once.
        order = self.gather(torch.tensor(positions, device=self.device)).argsort().cpu()
        return {
            name: self.gather(value.to(self.device)).cpu()[order] for name, value in values.items()
        }

    def all_reduce_mean(self, value: float) -> float:
        """Return the mean of a number over the ranks."""
        # gloo has no ReduceOp.AVG.
        return float(self._reduce(value, dist.ReduceOp.SUM)) / self.world_size

    def all_reduce_max(self, value: float) -> float:
        """Return the largest value of a number on any rank."""
        return self._reduce(value, dist.ReduceOp.MAX)

    def first_text(self, text: str) -> str:
        """Return the text of the first rank that has one; at most 4,000 bytes of it."""
        # Padded, because all_gather needs equal shapes.
        data = text.encode()[:_TEXT_BYTES].ljust(_TEXT_BYTES, b"\0")
        rows = self.gather(torch.tensor([list(data)], dtype=torch.uint8, device=self.device))
        # The limit may have cut a character in two.
        texts = [bytes(row).rstrip(b"\0").decode(errors="ignore") for row in rows.tolist()]
        return next((text for text in texts if text), "")

    def all_reduce_min(self, value: float) -> float:
        """Return the smallest value of a number on any rank."""
        return self._reduce(value, dist.ReduceOp.MIN)

    def average_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Replace the gradients by their mean over the ranks, bit for bit the same on each."""
        if self.world_size == 1:
            return
        # One all-reduce of all gradients, not one for each of hundreds of small tensors.
        gradients = [p.grad for p in parameters if p.grad is not None]
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
        with self._collective():
            # The ranks must have gradients for the same parameters in the same order: the call
            # compares neither, and adds whatever is at a position.
            dist.all_reduce(flat)
        flat /= self.world_size
        start = 0
        for gradient in gradients:
            gradient.copy_(flat[start : start + gradient.numel()].view_as(gradient))
            start += gradient.numel()

    def barrier(self) -> None:
        """Wait for all ranks."""
        if self.world_size > 1:
            with self._collective():
                dist.barrier()

    def _reduce(self, value: float, operation: dist.ReduceOp.RedOpType) -> float:
        if self.world_size == 1:
            # A single rank makes no collective call, so its progress is recorded here.
            self.monitor.beat()
            return value
        # In float64, because a single rank returns the Python number as it is.
        tensor = torch.tensor([value], dtype=torch.float64, device=self.device)
        with self._collective():
            dist.all_reduce(tensor, op=operation)
        return float(tensor)


def free_port() -> int:
    """Return a free loopback port."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])
