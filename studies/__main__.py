"""The experiments, repeated by `make study` (or `python -m studies FOLDER`).

1. Is a frozen reward hacked, and is an adversarial one not?
2. How many images and seconds do the released schedule and ours need for the same distance?

Finished runs are not repeated; the tables go to `FOLDER/tables.md` and to the screen.
"""

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from studies.arms import ARMS, config_of, prepare, read_history

SEEDS = (0, 1, 2)
Row = dict[str, float]


def main(folder: Path) -> None:
    """Train all runs, two at a time, and write the tables."""
    folder.mkdir(parents=True, exist_ok=True)
    missing = [
        (arm, seed)
        for arm in ARMS
        for seed in SEEDS
        if not (folder / f"{arm}-{seed}.jsonl").is_file()
    ]
    # One after the other: runs of a seed add to one set of reference images.
    for arm, seed in missing:
        prepare(config_of(ARMS[arm], seed), folder)
    with ThreadPoolExecutor(max_workers=2) as pool:
        for arm, seed in pool.map(lambda run: _run(run[0], run[1], folder), missing):
            _print(f"{arm}, seed {seed}: done")
    tables = _hacking(folder) + "\n" + _schedules(folder)
    (folder / "tables.md").write_text(tables, encoding="utf-8")
    _print(tables)


def _run(arm: str, seed: int, folder: Path) -> tuple[str, int]:
    with (folder / f"{arm}-{seed}.log").open("w", encoding="utf-8") as log:
        command = [sys.executable, "-m", "studies.arms", arm, str(seed), str(folder)]
        subprocess.run(command, stdout=log, stderr=log, check=True)
    return arm, seed


def _hacking(folder: Path) -> str:
    lines = [
        "| reward | metric | before | best distance at | there | at the end |",
        "|---|---|---|---|---|---|",
    ]
    metrics = {
        "reward": "held_out/reward",
        "distance": "held_out/distance",
        "attribute accuracy": "held_out/pocket_judge.attribute_accuracy",
        "all attributes": "held_out/pocket_judge.all_attributes",
    }
    for arm in ("frozen", "adversarial"):
        runs = [read_history(arm, seed, folder) for seed in SEEDS]
        best = [min(run, key=lambda row: row["held_out/distance"]) for run in runs]
        when = _spread([row["update"] for row in best], "{:.0f}")
        for name, key in metrics.items():
            columns = ([run[0] for run in runs], best, [run[-1] for run in runs])
            before, there, end = (_spread([row[key] for row in rows]) for rows in columns)
            lines.append(f"| {arm} | {name} | {before} | {when} | {there} | {end} |")
    return "\n".join(lines) + "\n"


def _schedules(folder: Path) -> str:
    lines = [
        "| seed | distance | released: images, s | ours: images, s | fewer images, less time |",
        "|---|---|---|---|---|",
    ]
    for seed in SEEDS:
        released = min(
            read_history("released-schedule", seed, folder),
            key=lambda row: row["held_out/distance"],
        )
        goal = released["held_out/distance"]
        ours = next(
            row
            for row in read_history("adversarial", seed, folder)
            if row["held_out/distance"] <= goal
        )
        cost: Sequence[Callable[[Row], float]] = (
            lambda row: row["cost/images_sampled"],
            _seconds,
        )
        theirs, mine = ([of(row) for of in cost] for row in (released, ours))
        ratios = ", ".join(f"{t / m:.1f}" for t, m in zip(theirs, mine, strict=True))
        lines.append(
            f"| {seed} | {goal:.1f} | {theirs[0]:.0f}, {theirs[1]:.0f} | "
            f"{mine[0]:.0f}, {mine[1]:.0f} | {ratios} |"
        )
    return "\n".join(lines) + "\n"


def _seconds(row: Row) -> float:
    """Return the seconds of training itself; evaluation and saving belong to neither schedule."""
    parts = ("rollout", "reward", "policy update", "discriminator update")
    return sum(row.get(f"seconds/{part}", 0.0) for part in parts)


def _spread(values: Sequence[float], form: str = "{:.3g}") -> str:
    return ", ".join(form.format(value) for value in values)


def _print(text: str) -> None:
    sys.stdout.write(text + "\n")


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main(Path(sys.argv[1] if len(sys.argv) > 1 else ".study"))
