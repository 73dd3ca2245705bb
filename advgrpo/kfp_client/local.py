"""Local runs of the compiled pipeline through `kfp.local`, one process per task."""

import os
import signal
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType

import yaml
from kfp import components, dsl, local

from advgrpo.errors import PipelineError, Preempted
from advgrpo.kfp_client.compiled import check_exists
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
        artifacts: Folder for the tasks' artifacts.

    Returns:
        Outputs by name; of an artifact, the URI.

    Raises:
        ConfigError: If the file does not exist.
        AdvGrpoError: The error of a failed task.
        PipelineError: If the pipeline failed in another way.
        Preempted: If SIGTERM or SIGINT was received.
    """
    check_exists(pipeline)
    component = components.load_component_from_text(_without_retries(pipeline))
    local.init(
        # In the present environment: kfp would create another one for each task, and install pip
        # there.
        runner=local.SubprocessRunner(use_venv=False),
        pipeline_root=str(artifacts),
        # kfp's own error would hide that of the task, which is in the failure file.
        raise_on_error=False,
    )
    with (
        TemporaryDirectory() as scratch,
        _failure_file(Path(scratch)) as failure_file,
        # If this process is killed, kfp leaves its tasks running.
        lifeline(Path(scratch)) as variables,
        environment(variables),
        _forwarded_signals() as stop,
        warnings.catch_warnings(),
    ):
        # kfp.local warns of images without "python" in their name, and of cluster settings.
        warnings.simplefilter("ignore")
        task = component(**arguments)
        # Within the block, at whose end the file is deleted.
        failure = read_failure(failure_file)
    outputs = {
        name: value.uri if isinstance(value, dsl.Artifact) else str(value)
        for name, value in task.outputs.items()
    }
    # kfp.local returns no outputs at all if a task failed.
    if outputs:
        return outputs
    # Before the failure: a stopped task has recorded one as well.
    if stop.requested:
        raise _preempted()
    if failure is not None:
        raise failure.error()
    raise PipelineError(
        f"the pipeline {pipeline.stem} failed",
        repair="fix the error of the failed task, which the output above shows",
    )


def _without_retries(pipeline: Path) -> str:
    """Read a compiled pipeline without its retries: locally, a failed task would fail again."""
    documents = list(yaml.load_all(pipeline.read_text(encoding="utf-8"), yaml.CSafeLoader))
    for task in documents[0]["root"]["dag"]["tasks"].values():
        task.pop("retryPolicy", None)
    return str(yaml.dump_all(documents, Dumper=yaml.CSafeDumper, sort_keys=False))


class _Stop:
    """Whether a stop was requested."""

    requested = False


def _preempted() -> Preempted:
    return Preempted("the pipeline was stopped", repair="run it again to resume")


@contextmanager
def _failure_file(scratch: Path) -> Iterator[Path]:
    # A caller may have named the file already, to read the cause itself.
    path = Path(os.environ.get(FAILURE_FILE) or scratch / "failure.json")
    with environment({FAILURE_FILE: str(path)}):
        yield path


@contextmanager
def _forwarded_signals() -> Iterator[_Stop]:
    """Forward SIGTERM and SIGINT to the running task, so that it can save its state."""
    # The launcher's image, which has this package, has no psutil.
    import psutil  # noqa: PLC0415

    stop = _Stop()
    # Only processes that the pipeline starts may be signalled.
    others = set(psutil.Process().children(recursive=True))

    def forward(_number: int, _frame: FrameType | None) -> None:
        stop.requested = True
        running = set(psutil.Process().children(recursive=True)) - others
        for process in running:
            with suppress(psutil.NoSuchProcess):
                process.terminate()
        # Between two tasks there is no process to stop, and kfp would start the next one.
        if not running:
            raise _preempted()

    before = {n: signal.signal(n, forward) for n in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
