"""Summary of the demo: metrics as JSON, and tables for the terminal."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from rich.table import Table

from advgrpo.demo.phases import KEYS, TITLES
from advgrpo.demo.state import DemoRun
from advgrpo.errors import PipelineError
from advgrpo.runtime.results import TaskResult, find_result
from advgrpo.storage.files import read_bytes, write_bytes
from advgrpo.storage.locations import join
from advgrpo.telemetry.formatting import format_duration

REPORT, ADAPTER = "report.html", "adapter"


class Summary(TypedDict):
    """Content of `summary.json`."""

    distance_base: float
    distance_trained: float
    alignment_base: float
    alignment_trained: float
    images_sampled: int
    policy_updates: int
    seconds_by_phase: dict[str, float]
    peak_memory_mib: float
    adapter: str
    report: str
    mlflow_run_id: str
    model_version: str


@dataclass(frozen=True)
class DemoResult:
    """Result of the demo."""

    summary: Summary
    alignment_change: tuple[float, float]
    """Confidence interval of the trained model's alignment minus the base model's."""


def gather_result(folder: Path, run: DemoRun, outputs: Mapping[str, str]) -> DemoResult:
    """Copy report and adapter into the demo's folder, and collect its metrics.

    Args:
        folder: The demo's folder.
        run: The finished run.
        outputs: The pipeline's outputs.
    """
    trained, evaluation = _result(outputs["trained"]), _result(outputs["evaluation"])
    write_bytes(str(folder / REPORT), read_bytes(join(evaluation.location, REPORT)))
    # An earlier run's adapter may have files that this one has not.
    shutil.rmtree(folder / ADAPTER, ignore_errors=True)
    trained.copy(folder / ADAPTER, ADAPTER)
    measured = evaluation.metrics
    summary = Summary(
        distance_base=measured["distance_base"],
        distance_trained=measured["distance_trained"],
        alignment_base=measured["alignment_base"],
        alignment_trained=measured["alignment_trained"],
        images_sampled=int(trained.metrics["images_sampled"]),
        policy_updates=int(trained.metrics["policy_updates"]),
        seconds_by_phase={name: round(s, 2) for name, s in run.seconds_by_phase.items()},
        peak_memory_mib=round(run.peak_memory_mib, 1),
        adapter=str(folder / ADAPTER),
        report=str(folder / REPORT),
        mlflow_run_id=outputs["parent_run_id"],
        model_version=outputs["model_version"],
    )
    change = measured["alignment_difference_low"], measured["alignment_difference_high"]
    return DemoResult(summary, change)


def comparison_table(result: DemoResult) -> Table:
    """Return a table of base and trained model side by side."""
    summary = result.summary
    table = Table(title="On held-out prompts")
    table.add_column("", no_wrap=True)
    for heading in ("base", "trained", "change"):
        table.add_column(heading, justify="right")
    base, trained = summary["distance_base"], summary["distance_trained"]
    table.add_row(
        "distance to reference images",
        f"{base:.2f}",
        f"{trained:.2f}",
        # The distance of two equal sets is 0.
        f"{base / trained:.1f} times smaller" if 0 < trained < base else "not smaller",
    )
    base, trained = summary["alignment_base"], summary["alignment_trained"]
    low, high = result.alignment_change
    table.add_row(
        "prompt alignment",
        f"{base:.3f}",
        f"{trained:.3f}",
        f"{trained - base:+.3f} ({low:+.3f} to {high:+.3f})",
    )
    return table


def cost_table(summary: Summary) -> Table:
    """Return a table of each phase's duration, memory and images."""
    table = Table(title="Cost")
    table.add_column("phase")
    table.add_column("time", justify="right")
    titles = {key: TITLES[task] for task, key in KEYS.items()}
    for name, seconds in summary["seconds_by_phase"].items():
        table.add_row(titles[name].lower(), format_duration(seconds))
    total = sum(summary["seconds_by_phase"].values())
    table.add_row("[bold]total", f"[bold]{format_duration(total)}")
    table.add_row("peak memory", f"{summary['peak_memory_mib']:,.0f} MiB")
    table.add_row("images sampled in training", f"{summary['images_sampled']:,}")
    return table


def _result(location: str) -> TaskResult:
    result = find_result(location)
    if result is None:
        raise PipelineError(
            f"{location}: does not contain a result of the pipeline", repair="run the demo again"
        )
    return result
