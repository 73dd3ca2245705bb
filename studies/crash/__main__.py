"""Crash test: fault injection at random instants of the pocket job (`make crash-test`).

The job is started again after each fault and must end with the results of an undisturbed run.
`KILLS=20 SEED=1 python -m studies.crash` injects 20 faults; `ONLY=7` repeats the seventh of them,
`FROM=7` resumes there after an interruption, `POINTS=1` injects one at each named point of the
code, `ALGORITHM=nft` trains by another algorithm than GRPO. Results go to `studies/results/crash`.
"""

import json
import logging
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

from advgrpo.demo.servers import EmbeddedServers
from advgrpo.runtime.environment import environment
from studies.crash.job import ALGORITHM
from studies.crash.points import POINTS
from studies.crash.rig import Kill, Rig, Struck, random_kill

RESULTS = Path(__file__).parents[1] / "results" / "crash"


def main() -> int:
    """Inject the faults that the environment selects."""
    seed = int(os.environ.get("SEED") or random.SystemRandom().randrange(10**6))
    count = int(os.environ.get("KILLS") or 20)
    only = int(os.environ.get("ONLY") or 0)
    first = int(os.environ.get("FROM") or 1)
    kills: Sequence[Kill]
    if os.environ.get("POINTS"):
        kills = [Kill(n, "SIGKILL of all", 0.0, point) for n, point in enumerate(POINTS, 1)]
    else:
        kills = [random_kill(seed, number) for number in range(1, count + 1)]
    kills = [kill for kill in kills if kill.number >= first]
    chosen = [kill for kill in kills if only in {0, kill.number}] or [random_kill(seed, only)]
    folder = Path(tempfile.mkdtemp(prefix="advgrpo-crash-"))
    say(f"seed {seed}, {len(chosen)} kills; working files in {folder}")
    done: list[Struck] = []
    for struck in strike_all(folder, seed, chosen):
        done.append(struck)
        if not only:
            write_results(seed, done)
    failed = [one for one in done if not one.good]
    say(
        f"{len(done)} kills, {len(done) - len(failed)} bit-equal, "
        f"{sum(one.lost for one in done)} updates made again, "
        f"{sum(one.lost_beyond for one in done)} beyond the last checkpoint; "
        f"{sum(one.seconds for one in done) / len(done):.1f} s a kill"
    )
    if not failed:
        shutil.rmtree(folder, ignore_errors=True)
    return int(bool(failed))


def strike_all(folder: Path, seed: int, kills: Iterable[Kill]) -> Iterable[Struck]:
    """Inject faults one after the other, each into a run of its own."""
    with ExitStack() as open_things:
        stores = open_things.enter_context(EmbeddedServers(folder / "stores"))
        open_things.enter_context(environment(stores.environment()))
        rig = open_things.enter_context(Rig(folder, stores))
        say(f"undisturbed: {rig.measure():.1f} s")
        for kill in kills:
            struck = _strike(rig, kill, seed)
            say(f"{struck.line()}")
            if not struck.good:
                again = f"POINTS=1 ONLY={kill.number}" if kill.point else f"ONLY={kill.number}"
                say(f"    logs in {struck.logs}; again: SEED={seed} {again} make crash-test")
            yield struck


def _strike(rig: Rig, kill: Kill, seed: int) -> Struck:
    try:
        return rig.strike(kill, seed)
    except Exception as error:  # noqa: BLE001 - a fault of the harness is one kill's, not the end
        rig.start_over()
        return Struck(kill, differences=[f"not made: {type(error).__name__}: {error}"])


def write_results(seed: int, done: Sequence[Struck]) -> None:
    """Write the results of all faults so far."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    kind = "points" if done[0].kill.point else f"seed-{seed}"
    if ALGORITHM != "grpo":
        kind += f"-{ALGORITHM}"
    kills = [
        {key: value for key, value in asdict(struck).items() if key != "logs"} for struck in done
    ]
    path = RESULTS / f"{kind}.json"
    if path.exists():
        before = json.loads(path.read_text(encoding="utf-8"))["kills"]
        first = done[0].kill.number
        kills = [one for one in before if one["kill"]["number"] < first] + kills
    record = {"seed": seed, "date": time.strftime("%Y-%m-%d"), "kills": kills}
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def say(text: str) -> None:
    """Print a line at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    # SIGTERM must unwind as Ctrl-C does, or servers stay running and the tmpfs mounted.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    sys.exit(main())
