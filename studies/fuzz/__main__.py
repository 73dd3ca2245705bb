"""Search for inputs that are neither understood nor refused in words: `make fuzz`.

`make fuzz SECONDS=300 TARGETS="image request" SEED=1` explores two kinds of input for five minutes
each; without TARGETS, all of them. What is found stays in `.fuzz/finds`, and the inputs by which
new code was reached in `.fuzz/corpus`, from which the next search goes on.
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
    """Search as the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m studies.fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="target", help="all, if none is named")
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    parser.add_argument("--seed", type=int, help="else one is drawn")
    parser.add_argument("--again", type=Path, help="only try a kept input once more")
    parser.add_argument("--output", type=Path, help="JSON file for what was counted")
    given = parser.parse_args()
    keep_out_the_rest()
    if given.again:
        return again(given.again)
    if find_spec("atheris") is None:
        parser.error(
            "atheris is not installed\n"
            f"  repair: {sys.executable} -m pip install -e '.[fuzz]' -c constraints.txt"
        )
    seed = random.SystemRandom().randrange(1, 2**31) if given.seed is None else given.seed
    return search(given.targets, given.seconds, seed, given.output)


def search(targets: Sequence[str], seconds: int, seed: int, output: Path | None) -> int:
    """Explore targets one after the other.

    Returns:
        1 if there was a find, or a search could not be made; 2 if there is no such target.
    """
    say(f"seed {seed}, {seconds} s a target; finds and corpus in {FOLDER}")
    # Loads what is explored, with counters in it.
    from studies.fuzz.explore import TARGETS, explore  # noqa: PLC0415

    if unknown := sorted(set(targets) - TARGETS.keys()):
        say(f"there is no target {', '.join(unknown)}\n  repair: name some of {', '.join(TARGETS)}")
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
            say(f"    again: {sys.executable} -m studies.fuzz --again {find}")
    found = sum(len(one.finds) for one in done)
    say(f"{sum(one.runs for one in done)} runs, {found} finds")
    if output:
        record = {"seed": seed, "date": time.strftime("%Y-%m-%d"), "targets": [*map(asdict, done)]}
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return int(bool(found))


def again(path: Path) -> int:
    """Give a kept input to its target once more, without atheris.

    Returns:
        1 if it still breaks the promise.
    """
    from studies.fuzz.targets import TARGETS  # noqa: PLC0415 - likewise

    target, data = TARGETS[path.resolve().parent.name], path.read_bytes()
    with TemporaryDirectory() as place:
        try:
            target.take(data, Path(place))
        except Exception:  # noqa: BLE001 - this is what is looked for
            say(traceback.format_exc())
            return 1
    say(f"{path} keeps the promise")
    return 0


def keep_out_the_rest() -> None:
    """Keep credentials and servers out of the search."""
    for name in list(os.environ):
        if name.startswith(_FOREIGN):
            del os.environ[name]
    os.environ |= {"AWS_EC2_METADATA_DISABLED": "true", "OMP_NUM_THREADS": "1"}


def say(text: str) -> None:
    """Tell whoever watches."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
