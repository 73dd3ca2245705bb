"""Run the compiled pipeline on this machine, one process per task, through `kfp.local`."""

import os
import signal
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType

import psutil
import yaml
from kfp import components, local

from advgrpo.errors import ConfigError, PipelineError, Preempted
from advgrpo.runtime.environment import environment
from advgrpo.runtime.exit_with_parent import lifeline
from advgrpo.runtime.failures import FAILURE_FILE, read_failure


def run_pipeline(
    pipeline: Path, arguments: Mapping[str, str | int | list[str]], *, artifacts: Path
) -> dict[str, str]:
    """Run a compiled pipeline.

    Args:
        pipeline: The YAML file.
        arguments: Values of its parameters.
        artifacts: Folder that the tasks' artifacts go to.

    Returns:
        Its outputs, by name.

    Raises:
        ConfigError: If there is no such file.
        AdvGrpoError: The error that a task failed with.
        PipelineError: If the pipeline failed in another way.
        Preempted: If it was asked to stop.
    """
    if not pipeline.is_file():
        raise ConfigError(
            f"there is no compiled pipeline {pipeline}",
            repair="run this in a checkout of advgrpo, or give the path of the YAML file",
        )
    component = components.load_component_from_text(_without_retries(pipeline))
    local.init(
        runner=local.SubprocessRunner(use_venv=False),
        pipeline_root=str(artifacts),
        raise_on_error=False,
    )
    with (
        TemporaryDirectory() as scratch,
        _failure_file(Path(scratch)) as failure_file,
        lifeline(Path(scratch)) as variables,
        environment(variables),
        _forwarded_signals() as stop,
        warnings.catch_warnings(),
    ):
        # It takes any image whose name does not contain "python" for one without Python, and says
        # of cluster settings that they do nothing here.
        warnings.simplefilter("ignore")
        task = component(**arguments)
        failure = read_failure(failure_file)
    outputs = {name: str(value) for name, value in task.outputs.items()}
    if outputs:
        return outputs
    if stop.asked:
        raise Preempted("the pipeline was asked to stop", repair="run it again to go on")
    if failure is not None:
        raise failure.error()
    raise PipelineError(
        f"the pipeline {pipeline.stem} failed", repair="the output above says in which task and why"
    )


def _without_retries(pipeline: Path) -> str:
    """Read a compiled pipeline; here no node is lost, and a failed task would fail again."""
    documents = list(yaml.load_all(pipeline.read_text(encoding="utf-8"), yaml.CSafeLoader))
    for task in documents[0]["root"]["dag"]["tasks"].values():
        task.pop("retryPolicy", None)
    return str(yaml.dump_all(documents, Dumper=yaml.CSafeDumper, sort_keys=False))


class _Stop:
    """Whether the pipeline was asked to stop."""

    asked = False


@contextmanager
def _failure_file(scratch: Path) -> Iterator[Path]:
    path = Path(os.environ.get(FAILURE_FILE) or scratch / "failure.json")
    with environment({FAILURE_FILE: str(path)}):
        yield path


@contextmanager
def _forwarded_signals() -> Iterator[_Stop]:
    """Pass SIGTERM and SIGINT on to the running task, which may save its state first."""
    stop = _Stop()
    others = set(psutil.Process().children(recursive=True))

    def forward(_number: int, _frame: FrameType | None) -> None:
        stop.asked = True
        running = set(psutil.Process().children(recursive=True)) - others
        for process in running:
            with suppress(psutil.NoSuchProcess):
                process.terminate()
        if not running:
            raise Preempted("the pipeline was asked to stop", repair="run it again to go on")

    before = {n: signal.signal(n, forward) for n in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
