"""Program of a worker in the tests: generates its share, optionally slow or crashing."""

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from advgrpo.records import PromptSet
from advgrpo.reference_images.generation import generate_reference_images
from advgrpo.runtime.work_queue import open_work_queue
from tests.reference_images.test_generation import NoiseSource, settings

PROMPTS = PromptSet(tuple(f"a cat with {n} tails" for n in range(12)), digest="")


class RecordingSource(NoiseSource):
    """Source that records each image per worker; worker 1 is slow or crashes, if requested."""

    def __init__(self, notes: Path, fate: str) -> None:
        super().__init__()
        self._notes = notes / f"worker-{os.environ.get('RANK', '0')}.txt"
        self._fate = fate if os.environ.get("RANK") == "1" else ""

    def draw(self, prompts: Sequence[str], seeds: Sequence[int]) -> Tensor:
        if self._fate == "slow":
            time.sleep(2)
        if self._fate == "dies" and self._notes.exists():
            time.sleep(1)
            os._exit(3)
        with self._notes.open("a") as file:
            file.writelines(f"{prompt}\n" for prompt in prompts)
        # Every worker should start before the others have finished.
        time.sleep(0.05)
        return super().draw(prompts, seeds)


def main(location: str, notes: Path, fate: str) -> None:
    source, config = RecordingSource(notes, fate), settings(batch_size=2)
    generate_reference_images(
        source,
        PROMPTS,
        config,
        images_per_prompt=4,
        seed=0,
        location=location,
        queue=open_work_queue("test"),
    )


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3])
