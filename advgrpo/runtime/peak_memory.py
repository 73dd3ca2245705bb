"""Peak memory of this process."""

import resource
import sys


def peak_memory_mib(*, with_children: bool = False) -> float:
    """Return the largest resident memory of this process so far, in MiB.

    Args:
        with_children: Whether the largest child that has ended counts as well; the result is the
            larger of the two, not their sum.
    """
    peaks = [resource.getrusage(resource.RUSAGE_SELF).ru_maxrss]
    if with_children:
        peaks.append(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
    # In bytes on macOS, in KiB on Linux.
    return max(peaks) / (2**20 if sys.platform == "darwin" else 2**10)
