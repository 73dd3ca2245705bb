from collections.abc import Iterator

from advgrpo.runtime.work_queue import SingleWorker, claim_with_progress
from advgrpo.telemetry.progress import Progress


class TwoOfFive(SingleWorker):
    """Claims what a second worker leaves."""

    def claim(self, count: int) -> Iterator[int]:
        assert count == 5
        yield from (1, 3)


def test_work_of_other_workers_counts_as_done() -> None:
    progress = Progress("drawing", 15, "images")
    done = [(n, progress.done) for n in claim_with_progress(TwoOfFive(), [1, 2, 3, 4, 5], progress)]
    assert done == [(1, 0), (3, 3)]
    assert progress.done == 15


def test_a_single_worker_counts_each_piece_when_it_is_done() -> None:
    progress = Progress("drawing", 6, "images")
    done = [progress.done for _ in claim_with_progress(SingleWorker(), [1, 2, 3], progress)]
    assert (done, progress.done) == ([0, 1, 3], 6)
