"""Benchmark whole updates: `python -m studies.bench --size pocket`.

Both loops are timed in turns within one process, so that ratios hold on a noisy machine.
"""

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch  # after OMP_NUM_THREADS, which it reads as it loads

from studies.bench.run import PARTS, Result, benchmark
from studies.bench.settings import compare_settings
from studies.bench.world import SIZES


def main() -> None:
    """Run the benchmark and print the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=SIZES, default="pocket")
    parser.add_argument("--rounds", type=int, default=5, help="how often each part is timed")
    parser.add_argument("--set", action="append", default=[], help="a setting, key=value")
    parser.add_argument("--folder", type=Path, help="keep models and images there for next time")
    parser.add_argument("--output", type=Path, help="JSON file for all numbers")
    arguments = parser.parse_args()
    if SIZES[arguments.size].needs_gpu and not torch.cuda.is_available():
        parser.error(f"--size {arguments.size} needs a GPU; --size tiny runs the same code")
    if not torch.cuda.is_available():
        torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        os.environ.setdefault("ADVGRPO_CACHE", scratch)
        folder = arguments.folder or Path(scratch) / "bench"
        result = benchmark(
            arguments.size, folder, rounds=arguments.rounds, overrides=tuple(arguments.set)
        )
        sys.stdout.write(summary(result))
        if arguments.output:
            arguments.output.parent.mkdir(parents=True, exist_ok=True)
            text = json.dumps(result.as_json(), indent=1) + "\n"
            arguments.output.write_text(text, encoding="utf-8")
        if arguments.size == "pocket":
            compare_settings(arguments.rounds)


def summary(result: Result) -> str:
    """Format the numbers as a table."""
    ratios, images = result.ratios(), result.images
    threads = f", {result.threads} thread(s)" if result.device == "CPU" else ""
    lines = [
        f"{result.words}; {result.device}{threads}, {result.dtype}, torch {result.torch}",
        f"{images} images a rollout; medians of {result.rounds} alternating rounds",
        f"matrix products at {result.matmul_rate / 1e12:.3g} Tflop/s",
        "",
        f"{'part of an update':32}{'seconds':>10}{'images/s':>10}{'of matmul rate':>16}",
    ]
    for part in ("update", *PARTS):
        share = ratios.get(f"share_of_matmul_rate/{part}")
        seconds = result.seconds[part]
        percent = "" if share is None else f"{share:.1%}"
        lines.append(f"{part:32}{seconds:>10.3f}{images / seconds:>10.2f}{percent:>16}")
    lines += ["", f"{'beside updates':32}{'seconds':>10}{'every':>10}{'of update time':>16}"]
    for part, every in result.every_updates.items():
        share = ratios[f"share_of_update/{part}"]
        lines.append(f"{part:32}{result.seconds[part]:>10.3f}{every:>10}{share:>16.1%}")
    lines.append(f"{'preparation':32}{result.preparation_seconds:>10.3f}{'a run':>10}")
    lines += ["", f"{'comparison loop':32}{'seconds':>10}{'images/s':>10}"]
    for part, seconds in result.comparison_seconds.items():
        lines.append(f"{part:32}{seconds:>10.3f}{images / seconds:>10.2f}")
    lines += [
        "",
        f"images per second, whole updates, ours / comparison: {ratios['images_per_second']:.2f}",
        f"policy updates per second, ours / comparison: {ratios['policy_updates_per_second']:.2f}",
        *(f"peak memory, {name}: {mib:.0f} MiB" for name, mib in result.peak_memory_mib.items()),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
