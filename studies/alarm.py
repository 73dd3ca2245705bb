"""Study of the reward-hacking alarm: delay on hacked runs, false alarms on sound ones.

`python -m studies.alarm` evaluates the recorded histories in `studies/results/alarm` and prints the
table; `python -m studies.alarm FOLDER` first trains the runs that are missing there, one at a time
(one to two CPU-minutes each), with its working files in FOLDER.
"""

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from advgrpo.config.training import WatchConfig
from advgrpo.training.reward_hacking import DISTANCE, find_alarm
from studies.arms import GENERATED_ONLY, Arm, run

RESULTS = Path(__file__).parent / "results" / "alarm"
ALIGNMENT = "held_out/pocket_judge.attribute_accuracy"
DIGITS = 5

MEASURING = (
    "training.monitoring.held_out_prompts=128",
    "training.monitoring.held_out_every_updates=4",
)
CLOSELY = "training.monitoring.held_out_every_updates=2"
ALONE = "training.reward={terms: [{type: discriminator}]}"
CONSTANT = "training.optimizer.decay=constant"
FROZEN = "training.update_schedule={type: frozen}"
# A rate that follows the discriminator falls as soon as a frozen one is outwitted, hence constant.
_NFT = (
    *(*MEASURING, ALONE, CONSTANT),
    *GENERATED_ONLY,
    "training.optimizer.learning_rate=2e-3",
    "training.optimizer.scale_by_separation=false",
    "training.update_schedule.discriminator_steps=12",
    "training.updates=24",
)
ARMS = {
    arm.name: arm
    for arm in (
        Arm(
            "frozen",
            (
                *(*MEASURING, CLOSELY, ALONE, CONSTANT),
                FROZEN,
                "training.updates=36",
            ),
        ),
        Arm("adversarial", (*MEASURING, ALONE, CONSTANT)),
        Arm("decay", (*MEASURING, ALONE)),
        Arm("constant", (*MEASURING, CONSTANT)),
        Arm("pocket", MEASURING),
        Arm("nft-frozen", (*_NFT, FROZEN), preset="pocket_nft"),
        Arm("nft-adversarial", _NFT, preset="pocket_nft"),
    )
}
"""`frozen` is hacked from about update 24 on, `nft-frozen` from about 10 on. The others are sound:
80 updates each, with PickScore and the discriminator (`pocket`, `constant`) or without, with a
falling rate (`pocket`, `decay`) or not, and 24 of `nft-adversarial`."""

HACKED = ("frozen", "nft-frozen")
TUNING_SEEDS = (0, 1)
"""The thresholds were chosen on runs of these seeds; runs of other seeds only validate them."""

RUNS = (
    *(("frozen", seed) for seed in (0, 1, 10, 11, 12, 13, 14)),
    *(("adversarial", seed) for seed in (0, 1, 10, 11, 12)),
    *(("pocket", seed) for seed in (0, 10, 11, 12)),
    *(("decay", seed) for seed in (12, 13, 14)),
    ("constant", 13),
    *((arm, seed) for seed in (10, 11, 12, 13, 14) for arm in ("nft-frozen", "nft-adversarial")),
)

Row = Mapping[str, float]


@dataclass(frozen=True)
class Outcome:
    """The alarm's outcome on a run."""

    arm: str
    seed: int
    best: int
    """Update of the smallest distance before the distance doubled, or of all."""

    doubled: int | None
    """First measured update at which the distance was at least twice the smallest one so far."""

    alarm: int | None
    """First measured update at which the alarm was raised."""

    @property
    def in_time(self) -> bool:
        """Whether the alarm came no later than the distance had doubled."""
        return self.alarm is not None and (self.doubled is None or self.alarm <= self.doubled)


def main(folder: Path | None) -> None:
    """Train missing runs if there is a folder for them, then evaluate all that are recorded."""
    if folder is not None:
        for arm, seed in RUNS:
            if not _path(arm, seed).is_file():
                run(ARMS[arm], seed, folder)
                record(arm, seed, folder / f"{arm}-{seed}.jsonl")
    for every in (2, 4, 8):
        sys.stdout.write(f"measured every {every} updates\n{table(every)}\n")
    for every in (4, 8):
        sys.stdout.write(f"measured every {every} updates\n{rules(every)}\n")


def record(arm: str, seed: int, history: Path) -> None:
    """Record a run's held-out metrics."""
    rows = (json.loads(line) for line in history.read_text(encoding="utf-8").splitlines())
    lines = [
        json.dumps(
            {key: _rounded(row[key]) for key in row if key == "update" or "held_out/" in key}
        )
        for row in rows
        if DISTANCE in row
    ]
    RESULTS.mkdir(parents=True, exist_ok=True)
    _path(arm, seed).write_text("\n".join(lines) + "\n", encoding="utf-8")


def read_recorded(arm: str, seed: int, every: int = 4) -> list[Row]:
    """Read a run's rows at every so many updates."""
    lines = _path(arm, seed).read_text(encoding="utf-8").splitlines()
    rows: list[Row] = [json.loads(line) for line in lines]
    return [row for row in rows if row["update"] % every == 0]


def evaluate_run(arm: str, seed: int, every: int = 4) -> Outcome:
    """Evaluate a recorded run, row by row, with the default thresholds."""
    rows = read_recorded(arm, seed, every)
    doubled = next((int(row["update"]) for row, least in _so_far(rows) if _twice(row, least)), None)
    until = [row for row in rows if doubled is None or row["update"] < doubled]
    raised = (
        find_alarm(rows[: end + 1], WatchConfig(), alignment=ALIGNMENT) for end in range(len(rows))
    )
    return Outcome(
        arm=arm,
        seed=seed,
        best=int(_best(until)["update"]),
        doubled=doubled,
        alarm=next((alarm.update for alarm in raised if alarm is not None), None),
    )


def list_recorded_runs(every: int = 4) -> list[tuple[str, int]]:
    """List the runs that are recorded at every so many updates, as arm and seed."""
    runs = [(arm, seed) for arm, seed in RUNS if _path(arm, seed).is_file()]
    return [run for run in runs if read_recorded(*run, every)[1]["update"] == every]


def table(every: int) -> str:
    """Tabulate all recorded runs."""
    lines = [
        "| run | seed | used for | best at | distance doubled at | alarm at | widest gap |",
        "|---|---|---|---|---|---|---|",
    ]
    for arm, seed in list_recorded_runs(every):
        result = evaluate_run(arm, seed, every)
        use = "tuning" if seed in TUNING_SEEDS else "validation"
        gap = max(map(_gap, read_recorded(arm, seed, every)))
        lines.append(
            f"| {arm} | {seed} | {use} | {result.best} | {_or_never(result.doubled)} | "
            f"{_or_never(result.alarm)} | {gap:.2f} |"
        )
    return "\n".join(lines) + "\n"


def _best(rows: Sequence[Row]) -> Row:
    return min(rows, key=lambda row: row[DISTANCE])


def _gap(row: Row) -> float:
    return row["held_out/order.critic"] - row["held_out/order.reward"]


def _risen(rows: Sequence[Row]) -> bool:
    return rows[-1][DISTANCE] >= 1.25 * _best(rows)[DISTANCE]


RULES: Mapping[str, Callable[[Sequence[Row]], bool]] = {
    "the alarm": lambda rows: find_alarm(rows, WatchConfig(), alignment=ALIGNMENT) is not None,
    "distance doubled": lambda rows: rows[-1][DISTANCE] >= 2 * _best(rows)[DISTANCE],
    "distance up by a quarter, mean reward not below its value at the best": lambda rows: (
        _risen(rows) and rows[-1]["held_out/reward"] >= _best(rows)["held_out/reward"]
    ),
    "alignment 0.01 below the base model's": lambda rows: (
        rows[-1][ALIGNMENT] <= rows[0][ALIGNMENT] - 0.01
    ),
    "the reward puts half of the pairs in order or fewer": lambda rows: (
        rows[-1]["held_out/order.reward"] <= 0.5
    ),
    "critic ahead of the reward by 0.4": lambda rows: _gap(rows[-1]) >= 0.4,
    "critic ahead by 0.2, distance up by a quarter": lambda rows: (
        _risen(rows) and _gap(rows[-1]) >= 0.2
    ),
}
"""The alarm's rule, and simpler ones for comparison."""


def rules(every: int) -> str:
    """Tabulate the outcome of each rule on all recorded runs."""
    lines = ["| rule | hacked runs found in time | sound runs alarmed |", "|---|---|---|"]
    for name, rule in RULES.items():
        found, wrong = [], []
        for arm, seed in list_recorded_runs(every):
            rows = read_recorded(arm, seed, every)
            first = next((r["update"] for n, r in enumerate(rows) if rule(rows[: n + 1])), None)
            if arm in HACKED:
                doubled = evaluate_run(arm, seed, every).doubled
                found.append(first is not None and (doubled is None or first <= doubled))
            else:
                wrong.append(first is not None)
        lines.append(f"| {name} | {sum(found)} of {len(found)} | {sum(wrong)} of {len(wrong)} |")
    return "\n".join(lines) + "\n"


def _so_far(rows: list[Row]) -> Iterator[tuple[Row, float]]:
    least = float("inf")
    for row in rows:
        least = min(least, row[DISTANCE])
        yield row, least


def _twice(row: Row, least: float) -> bool:
    return row[DISTANCE] >= 2 * least


def _or_never(update: int | None) -> str:
    return "never" if update is None else str(update)


def _path(arm: str, seed: int) -> Path:
    return RESULTS / f"{arm}-{seed}.jsonl"


def _rounded(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
