"""A program that runs tasks like the launcher's image, without the modules that the image lacks.

Arguments: JSON list of the missing modules, workspace. Prints the results as JSON.
"""

import importlib
import json
import os
import pkgutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType, SimpleNamespace
from typing import ClassVar

NEEDED = (
    "advgrpo.cli",
    "advgrpo.cluster",
    "advgrpo.config",
    "advgrpo.kfp_client.readiness",
    "advgrpo.kfp_client",
    "advgrpo.runtime.dispatch",
    "advgrpo.registry.promotion",
    "advgrpo.registry.listing",
    "advgrpo.tasks.finished",
    "advgrpo.tasks.finished_images",
    "advgrpo.tasks.resolve_config",
    "advgrpo.runtime.run_status_text",
    "advgrpo.registry.webhook",
    "advgrpo.tracking.run_lookup",
    "advgrpo.tracking.health",
    "advgrpo.tracking.runs",
    "advgrpo.tracking.background_uploader",
    "advgrpo.tracking.uploader",
)
"""Modules that the launcher's image must be able to import, including submodules."""


class Lacking(PathFinder):
    """A path finder that hides some modules."""

    modules: ClassVar[frozenset[str]] = frozenset()

    @classmethod
    def find_spec(
        cls,
        fullname: str,
        path: Sequence[str] | None = None,
        target: ModuleType | None = None,
    ) -> ModuleSpec | None:
        if fullname.partition(".")[0] in cls.modules:
            return None
        return super().find_spec(fullname, path, target)


def import_needed() -> None:
    """Import all modules of `NEEDED`."""
    for name in NEEDED:
        package = importlib.import_module(name)
        for module in pkgutil.iter_modules(getattr(package, "__path__", []), f"{name}."):
            importlib.import_module(module.name)


def replace_launcher(run_job: object) -> None:
    """Replace the cluster's launcher by a function."""
    launcher = ModuleType("advgrpo.cluster.launcher")
    launcher.JobRequest = SimpleNamespace  # type: ignore[attr-defined]
    launcher.run_job = run_job  # type: ignore[attr-defined]
    sys.modules[launcher.__name__] = launcher
    os.environ["ADVGRPO_CLUSTER"] = '{"image": "trainer"}'


def main() -> None:
    """Run the tasks."""
    lacking, workspace = frozenset(json.loads(sys.argv[1])), sys.argv[2]
    Lacking.modules = lacking - sys.modules.keys()
    sys.meta_path[sys.meta_path.index(PathFinder)] = Lacking
    import_needed()

    from advgrpo.errors import JobFailedError, TrainingError
    from advgrpo.runtime.dispatch import FAILURE_PREFIX, OUTCOME_FILE, run_task
    from advgrpo.runtime.pipeline_tasks import EVALUATE, TRAIN
    from advgrpo.storage import join, write_bytes
    from advgrpo.tasks.resolve_config import resolve_config

    def succeed(work: SimpleNamespace, _settings: object) -> None:
        outcome = {"location": work.command[-1], "metrics": {"updates": 2.0}}
        write_bytes(join(work.run_key, OUTCOME_FILE), json.dumps(outcome).encode())

    def fail(work: SimpleNamespace, _settings: object) -> None:
        failure = {"task": work.task, "kind": "NonFiniteError", "message": "NaN", "repair": ""}
        name = f"{FAILURE_PREFIX}0.json"
        write_bytes(join(work.run_key, name), json.dumps(failure).encode())
        raise JobFailedError("the pod failed")

    resolved = resolve_config("pocket", [], processes=1, workspace=workspace, run_key="")
    arguments = {"workspace": workspace, "parent_run_id": resolved.parent_run_id}
    replace_launcher(succeed)
    # Without the arguments of the tasks, which find an earlier result.
    result = run_task(replace(TRAIN, finished=""), arguments, run_id="1")
    replace_launcher(fail)
    try:
        run_task(replace(EVALUATE, finished=""), arguments, run_id="1")
    except TrainingError as error:
        failure = type(error).__name__
    made = {
        "parent_run_id": resolved.parent_run_id,
        "location": result.location,
        "metrics": dict(result.metrics),
        "failure": failure,
        "loaded": sorted(Lacking.modules & sys.modules.keys()),
    }
    sys.stdout.write(json.dumps(made))


if __name__ == "__main__":
    main()
