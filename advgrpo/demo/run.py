"""`advgrpo demo`: the pipeline on this machine, from prompts to a registered adapter."""

import json
import os
import shlex
import shutil
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import requests  # type: ignore[import-untyped]
from rich.console import Console

from advgrpo.config.resolution import resolve
from advgrpo.config.tasks import digest
from advgrpo.demo.display import Bars, Lines, live
from advgrpo.demo.lock import OWNER, only_demo_in
from advgrpo.demo.memory import MemoryWatch
from advgrpo.demo.phases import SERVERS, Display, PhaseClock
from advgrpo.demo.serve import SERVERS_FOLDER, shell_variables
from advgrpo.demo.servers import BUCKET, EmbeddedServers
from advgrpo.demo.state import DemoRun, resume_run, state_folder
from advgrpo.demo.summary import DemoResult, Summary, comparison_table, cost_table, gather_result
from advgrpo.demo.watched import run_watched
from advgrpo.errors import TrackingError
from advgrpo.runtime.environment import environment
from advgrpo.storage.cache import CACHE_VARIABLE
from advgrpo.storage.files import write_bytes

SUMMARY = "summary.json"
OUTPUTS = "outputs.json"


def run_demo(
    folder: Path,
    *,
    preset: str,
    overrides: Sequence[str],
    processes: int,
    console: Console,
) -> Summary:
    """Run the pipeline with its own servers, or resume an interrupted run.

    Args:
        folder: Folder for everything that it writes.
        preset: Name of a packaged preset, or path of a YAML file.
        overrides: Texts such as `training.updates=10`.
        processes: Training processes.
        console: Output of the progress.

    Raises:
        ConfigError: If a setting is invalid, or another demo is running in the folder.
        Preempted: If it was stopped; the next call resumes.
        AdvGrpoError: The error of a failed task.
    """
    bars = Bars() if console.is_terminal else None
    display: Display = bars or Lines(console)
    # Before the lock and the servers, so that a wrong setting is reported at once.
    config = resolve(preset, overrides)
    config.check_ranks(processes)
    with only_demo_in(folder), MemoryWatch() as memory:
        run = resume_run(folder, digest(config))
        if run.is_resumed:
            console.print("Resuming the interrupted run.")
        clock = PhaseClock(run.seconds_by_phase)
        try:
            with live(bars, console) if bars else nullcontext():
                display.start(SERVERS)
                with (
                    # The servers start for each attempt: their ports change, their data does not.
                    EmbeddedServers(folder / SERVERS_FOLDER) as servers,
                    shell_variables(folder, servers),
                    # This process reads results from the S3 server too.
                    environment(servers.environment()),
                ):
                    display.finish(SERVERS, clock.finish(SERVERS))
                    command = _command(folder, run, preset, overrides, processes)
                    outputs = _run_pipeline(folder, command, display, clock)
                    # Before the metrics are logged, which include it.
                    run.peak_memory_mib = max(run.peak_memory_mib, memory.peak_mib)
                    _log_cost(servers.tracking_uri, outputs["parent_run_id"], run)
                    result = gather_result(folder, run, outputs)
        finally:
            # Also after an error: the next attempt adds to these durations.
            run.peak_memory_mib = max(run.peak_memory_mib, memory.peak_mib)
            run.save(folder)
        write_bytes(str(folder / SUMMARY), json.dumps(result.summary, indent=1).encode())
        # Last, so that a demo that is killed before it resumes and writes the summary.
        run.finished = True
        run.save(folder)
    _print_result(console, result, folder)
    return result.summary


def _command(
    folder: Path, run: DemoRun, preset: str, overrides: Sequence[str], processes: int
) -> list[str]:
    settings = [word for override in overrides for word in ("--set", override)]
    return [
        # This Python, not the first `advgrpo` on the path.
        *(sys.executable, "-m", "advgrpo.cli.main", "pipeline", "run", "--verbose"),
        *("--preset", preset, *settings),
        *("--processes", str(processes)),
        # The key names both, so the next attempt finds the results and the MLflow run.
        *("--workspace", f"s3://{BUCKET}/runs/{run.key}", "--run-key", run.key),
        *(
            "--artifacts",
            str(folder / "artifacts"),
            "--output",
            str(state_folder(folder) / OUTPUTS),
        ),
    ]


def _run_pipeline(
    folder: Path, command: Sequence[str], display: Display, clock: PhaseClock
) -> dict[str, str]:
    state = state_folder(folder).resolve()
    # That of an earlier attempt would be read as this one's.
    (state / OUTPUTS).unlink(missing_ok=True)
    run_watched(
        command,
        "demo",
        variables=_variables(folder),
        state=state,
        log_file=folder / "logs" / "pipeline.log",
        display=display,
        clock=clock,
    )
    outputs: dict[str, str] = json.loads((state / OUTPUTS).read_text(encoding="utf-8"))
    return outputs


def _variables(folder: Path) -> dict[str, str]:
    """Return the variables of the demo's processes, which write to its folder alone."""
    folder = folder.resolve()
    cache, scratch = folder / "cache", folder / "scratch"
    # Killed processes leave temporary files.
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    return {
        **os.environ,
        OWNER: str(folder),
        CACHE_VARIABLE: str(cache),
        # Libraries such as matplotlib and Triton would write to the home directory.
        "XDG_CACHE_HOME": str(cache),
        "XDG_CONFIG_HOME": str(cache),
        "TRITON_HOME": str(cache),
        "TMPDIR": str(scratch),
        # With a process per core, more threads only wait for each other.
        "OMP_NUM_THREADS": "1",
    }


def _log_cost(tracking_uri: str, run_id: str, run: DemoRun) -> None:
    # Importing MLflow takes seconds, for one request.
    now = int(time.time() * 1000)
    # Durations of all attempts, not of this one alone.
    metrics = {f"seconds/{name}": value for name, value in run.seconds_by_phase.items()}
    metrics["peak_memory_mib"] = run.peak_memory_mib
    answer = requests.post(
        f"{tracking_uri}/api/2.0/mlflow/runs/log-batch",
        json={
            "run_id": run_id,
            "metrics": [
                {"key": f"demo/{name}", "value": value, "timestamp": now, "step": 0}
                for name, value in metrics.items()
            ],
        },
        timeout=30,
    )
    if not answer.ok:
        raise TrackingError(
            f"cannot log the demo's cost to run {run_id}: {answer.status_code} {answer.reason}",
            repair="read the end of mlflow.log in the folder of the servers",
        )


def _print_result(console: Console, result: DemoResult, folder: Path) -> None:
    summary = result.summary
    console.print()
    console.print(comparison_table(result))
    console.print(cost_table(summary))
    for name, value in (
        ("Report", summary["report"]),
        ("Adapter", summary["adapter"]),
        ("Registered as", summary["model_version"]),
        ("MLflow run", summary["mlflow_run_id"]),
        ("Metrics", str(folder / SUMMARY)),
        ("Servers", _serve_command(folder)),
    ):
        console.print(f"{name + ':':<16}{value}", markup=False, highlight=False, soft_wrap=True)


def _serve_command(folder: Path) -> str:
    # Under make, `advgrpo` need not be on the path.
    if "MAKELEVEL" in os.environ and folder == Path(".demo"):
        return "make demo-ui"
    return f"advgrpo demo-ui --folder {shlex.quote(str(folder))}"
