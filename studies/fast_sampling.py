"""Study of cheaper rollouts: held-out distance and alignment at equal updates.

`python -m studies.fast_sampling` prints the tables of the recorded runs in
`studies/results/fast_sampling`; `python -m studies.fast_sampling FOLDER` first trains the runs that
are missing there, one at a time, with its working files in FOLDER.
"""

import os
import sys
from pathlib import Path

from studies.algorithms import summary, train_and_record
from studies.arms import Arm

RESULTS = Path(__file__).parent / "results" / "fast_sampling"
SEEDS = (0, 1, 2)

# As the presets of SD3.5 sample, at the pocket world's size: guided, separate prefixes.
_COMMON = (
    "training.optimizer.learning_rate=2e-3",
    "training.updates=8",
    "training.monitoring.held_out_every_updates=4",
    "training.monitoring.watch.action=none",
    "training.sampling.guidance_scale=2.5",
    "training.algorithm.shared_prefix=false",
)
_LATE = "training.algorithm.window={type: fixed, start: 3, length: 2}"
_GUIDED = "training.algorithm.fast_sampling.guidance_interval"
_TAIL = "training.algorithm.fast_sampling.tail_steps=2"
_SHARED = "training.algorithm.shared_prefix=true"
ARMS = {
    name: Arm(name, (*_COMMON, *overrides))
    for name, overrides in {
        "as-the-preset": (),
        "all": (_LATE, _TAIL, _SHARED, f"{_GUIDED}=[0.6, 0.8]"),
        "guidance-interval": (f"{_GUIDED}=[0.25, 0.6]",),
        "late-window-and-tail": (_LATE, _TAIL),
        "late-window-and-shared-prefix": (_LATE, _SHARED),
        "no-guidance": ("training.sampling.guidance_scale=1",),
        "late-window": (_LATE,),
    }.items()
}
"""The pocket preset with its rate falling to zero over 8 updates of 64 images."""


def main(folder: Path | None) -> None:
    """Train missing runs if there is a folder for them, then print the table."""
    if folder is not None:
        for seed in SEEDS:
            for arm in ARMS.values():
                train_and_record(arm, seed, folder, RESULTS)
    sys.stdout.write(summary(ARMS, RESULTS, goals=()))


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
