"""Seconds, floating point operations and memory of parts of the work."""

import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from advgrpo.training.counters import Counters
from advgrpo.training.nonfinite import NonFiniteGuard
from advgrpo.training.rollout import Rollout

CHECKS = "checks of finite values"
_MATMUL_SIDE = {"cuda": 8192, "cpu": 1024}


@dataclass
class PartTimes:
    """Seconds of parts of the work, one value a round."""

    device: torch.device
    seconds: dict[str, list[float]] = field(default_factory=dict)

    @contextmanager
    def timed(self, part: str) -> Iterator[None]:
        """Time the context, until the GPU has finished its work."""
        synchronize(self.device)
        start = time.perf_counter()
        yield
        synchronize(self.device)
        self.seconds.setdefault(part, []).append(time.perf_counter() - start)

    def median(self, part: str) -> float:
        """Return the median seconds of a part."""
        return statistics.median(self.seconds[part])


class TimedCounters(Counters):
    """Counters whose timers are those of a `PartTimes`."""

    def __init__(self, times: PartTimes) -> None:
        super().__init__()
        self.times = times

    @contextmanager
    def timed(self, part: str) -> Iterator[None]:
        """Time a part."""
        with super().timed(part), self.times.timed(part):
            yield


class TimedGuard(NonFiniteGuard):
    """A guard whose checks of a rollout are timed.

    Args:
        guard: That of the training state.
        times: Gets the seconds of both checks together.
    """

    def __init__(self, guard: NonFiniteGuard, times: PartTimes) -> None:
        vars(self).update(vars(guard))
        self._times, self._seconds = times, 0.0

    def check_rollout(self, rollout: Rollout) -> None:
        """Check latents, log-probs and images."""
        start = time.perf_counter()
        super().check_rollout(rollout)
        self._seconds = time.perf_counter() - start

    def check_rewards(self, terms: Tensor, names: Sequence[str], rollout: Rollout) -> None:
        """Check rewards."""
        start = time.perf_counter()
        super().check_rewards(terms, names, rollout)
        seconds = self._seconds + time.perf_counter() - start
        self._times.seconds.setdefault(CHECKS, []).append(seconds)


class CountingCounters(Counters):
    """Counters of floating point operations, by part of the work.

    Attributes:
        operations: By part: two for each multiplication with addition of matrix products,
            convolutions and attention.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.operations: dict[str, int] = {}
        self._device = device

    @contextmanager
    def timed(self, part: str) -> Iterator[None]:
        """Count the operations of the context."""
        # The counter does not support the fused attention of CPUs.
        plain = sdpa_kernel(SDPBackend.MATH) if self._device.type == "cpu" else nullcontext()
        counter = FlopCounterMode(display=False)
        with super().timed(part), plain, counter:
            yield
        self.operations[part] = self.operations.get(part, 0) + counter.get_total_flops()


def matmul_rate(device: torch.device, dtype: torch.dtype, *, rounds: int = 5) -> float:
    """Measure the rate of a large matrix product, in operations per second."""
    side = _MATMUL_SIDE[device.type]
    left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    times = PartTimes(device)
    for number in range(rounds + 1):
        with times.timed("warm-up" if number == 0 else "product"):
            left @ right
    return 2 * side**3 / times.median("product")


def synchronize(device: torch.device) -> None:
    """Wait until the device has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@contextmanager
def peak_memory(device: torch.device, peaks: dict[str, float], name: str) -> Iterator[None]:
    """Record the peak GPU memory within the context, in MiB; nothing on a CPU."""
    if device.type != "cuda":
        yield
        return
    torch.cuda.reset_peak_memory_stats(device)
    yield
    peak = torch.cuda.max_memory_allocated(device) / 2**20
    peaks[name] = max(peak, peaks.get(name, 0.0))
