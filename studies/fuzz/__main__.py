"""Coverage-guided search for inputs that are neither parsed nor rejected with a clear error.

`make fuzz SECONDS=300 TARGETS="image request" SEED=1` fuzzes two targets for five minutes each;
without TARGETS, all of them. Failing inputs are stored in `.fuzz/finds`, and inputs that reached
new code in `.fuzz/corpus`, from which the next search starts.
"""

import argparse
import json
import os
import random
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

FOLDER = Path(__file__).parents[2] / ".fuzz"
_FOREIGN = ("AWS_", "MLFLOW_", "HF_", "ADVGRPO_")


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m studies.fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="target", help="default: all")
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    parser.add_argument("--seed", type=int, help="default: random")
    parser.add_argument("--replay", type=Path, help="run a stored input once, without fuzzing")
    parser.add_argument("--output", type=Path, help="JSON file for the statistics")
    options = parser.parse_args()
    clear_environment()
    if options.replay:
        return replay(options.replay)
    if find_spec("atheris") is None:
        parser.error(
            "atheris is not installed\n"
            f"  repair: {sys.executable} -m pip install -e '.[fuzz]' -c constraints.txt"
        )
    seed = random.SystemRandom().randrange(1, 2**31) if options.seed is None else options.seed
    return search(options.targets, options.seconds, seed, options.output)


def search(targets: Sequence[str], seconds: int, seed: int, output: Path | None) -> int:
    """Fuzz targets one after the other.

    Returns:
        1 if an input failed or a search crashed; 2 if a target does not exist.
    """
    say(f"seed {seed}, {seconds} s per target; finds and corpus in {FOLDER}")
    # Imports the fuzzed modules with instrumentation.
    from studies.fuzz.explore import explore  # noqa: PLC0415
    from studies.fuzz.targets import TARGETS  # noqa: PLC0415

    if unknown := sorted(set(targets) - TARGETS.keys()):
        say(f"unknown target {', '.join(unknown)}\n  repair: use some of {', '.join(TARGETS)}")
        return 2
    say(
        f"{'target':17}{'runs':>10}{'seconds':>9}{'edges':>8}{'features':>10}{'MiB':>7}{'finds':>7}"
    )
    done = []
    for target in targets or TARGETS:
        one = explore(target, FOLDER, seconds=seconds, seed=seed)
        done.append(one)
        counts = f"{one.runs:>10}{one.seconds:>9.0f}{one.edges:>8}{one.features:>10}"
        say(f"{target:17}{counts}{one.peak_mib:>7}{len(one.finds):>7}")
        for find in one.finds:
            say(f"    replay: {sys.executable} -m studies.fuzz --replay {find}")
    found = sum(len(one.finds) for one in done)
    say(f"{sum(one.runs for one in done)} runs, {found} finds")
    if output:
        record = {"seed": seed, "date": time.strftime("%Y-%m-%d"), "targets": [*map(asdict, done)]}
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return int(bool(found))


def replay(path: Path) -> int:
    """Run a stored input once, without atheris.

    Returns:
        1 if it still fails.
    """
    from studies.fuzz.targets import TARGETS  # noqa: PLC0415 - as above

    target, data = TARGETS[path.resolve().parent.name], path.read_bytes()
    with TemporaryDirectory() as place:
        try:
            target.take(data, Path(place))
        except Exception:  # noqa: BLE001 - any exception is a find
            say(traceback.format_exc())
            return 1
    say(f"{path}: passed")
    return 0


def clear_environment() -> None:
    """Remove credentials and servers from the environment."""
    for name in list(os.environ):
        if name.startswith(_FOREIGN):
            del os.environ[name]
    os.environ |= {"AWS_EC2_METADATA_DISABLED": "true", "OMP_NUM_THREADS": "1"}


def say(text: str) -> None:
    """Print a line at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
