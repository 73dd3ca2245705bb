import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from kfp import compiler, dsl

from advgrpo.errors import ConfigError, PipelineError, Preempted, RatioError
from advgrpo.kfp_client.local import run_pipeline


@dsl.component(base_image="python:3.11", install_kfp_package=False)
def behave(how: str, mark: str) -> str:
    """Succeed, fail in a known way, fail in another, or wait."""
    from pathlib import Path
    from time import sleep

    from advgrpo.errors import RatioError
    from advgrpo.runtime.failures import record_failures

    Path(mark).touch()
    with record_failures("train"):
        if how == "known":
            raise RatioError("the ratio is 2", repair="make it 1")
        if how == "unknown":
            raise KeyError("missing")
    if how == "wait":
        sleep(60)
    if how == "outside":
        raise SystemExit(3)
    return f"did {how}"


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    @dsl.pipeline(name="behaving")
    def behaving(how: str, mark: str) -> str:
        task = behave(how=how, mark=mark)
        # As on a cluster; here it would wait half a minute before it fails again.
        task.set_retry(num_retries=2, backoff_duration="30s")
        return task.output  # type: ignore[no-any-return]

    path = tmp_path_factory.mktemp("pipeline") / "behaving.yaml"
    compiler.Compiler().compile(behaving, str(path))
    return path


@pytest.fixture(autouse=True)
def _at_once() -> Iterator[None]:
    """A task is tried once, not again after a wait."""
    start = time.monotonic()
    yield
    assert time.monotonic() - start < 29


def _run(pipeline: Path, how: str, folder: Path) -> dict[str, str]:
    arguments: dict[str, str | int | list[str]] = {"how": how, "mark": str(folder / "mark")}
    return run_pipeline(pipeline, arguments, artifacts=folder / "artifacts")


def test_outputs_are_returned(pipeline: Path, tmp_path: Path) -> None:
    assert _run(pipeline, "well", tmp_path) == {"Output": "did well"}


def test_an_expected_error_of_a_task_is_raised_unchanged(pipeline: Path, tmp_path: Path) -> None:
    with pytest.raises(RatioError, match="the ratio is 2"):
        _run(pipeline, "known", tmp_path)


def test_any_other_error_names_the_task(pipeline: Path, tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="the task train failed: KeyError"):
        _run(pipeline, "unknown", tmp_path)


def test_a_task_that_exits_fails_the_pipeline(pipeline: Path, tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="the pipeline behaving failed"):
        _run(pipeline, "outside", tmp_path)


def test_a_signal_stops_the_task_and_no_other_process(pipeline: Path, tmp_path: Path) -> None:
    def stop() -> None:
        while not (tmp_path / "mark").exists():
            threading.Event().wait(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    with subprocess.Popen(["sleep", "60"]) as other:
        thread = threading.Thread(target=stop)
        thread.start()
        with pytest.raises(Preempted):
            _run(pipeline, "wait", tmp_path)
        thread.join()
        assert other.poll() is None
        other.kill()


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml"):
        run_pipeline(tmp_path / "none.yaml", {}, artifacts=tmp_path)
