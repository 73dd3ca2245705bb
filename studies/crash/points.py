"""Named points of the code at which a fault can be injected.

A process that reaches the point creates a marker file and waits until it is killed.
"""

import importlib
import os
import time
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

POINT_VARIABLE = "ADVGRPO_CRASH_POINT"
MARK_VARIABLE = "ADVGRPO_CRASH_MARK"

_S3 = "advgrpo.storage.s3:S3Storage"
POINTS = {
    "before the run is opened": "mlflow:MlflowClient.create_run 1 before",
    "after the run is opened": "mlflow:MlflowClient.create_run 1 after",
    "between an archive and its list": f"{_S3}.write_bytes 1 after reference_images .tar",
    "between the lists of a set": f"{_S3}.write_bytes 1 after part-lists.tar",
    "before features are kept": f"{_S3}.upload_file 1 before /features/",
    "before the discriminator is committed": f"{_S3}.write_bytes 1 before discriminators commit",
    "after the discriminator is committed": f"{_S3}.write_bytes 1 after discriminators commit",
    "before the first checkpoint": f"{_S3}.upload_file 1 before checkpoints",
    "between files of a checkpoint": f"{_S3}.upload_file 11 after checkpoints",
    "before a checkpoint is committed": f"{_S3}.write_bytes 2 before checkpoints commit",
    "after a checkpoint is committed": f"{_S3}.write_bytes 2 after checkpoints commit",
    "within the deletion of a checkpoint": f"{_S3}.delete 4 before checkpoints",
    "between backward passes": "advgrpo.training.engines.zero:ZeroEngine.backward 5 after",
    "after an optimizer step": "advgrpo.training.engines.zero:ZeroEngine.backward 6 after",
    "between the two players": "advgrpo.training.discriminator_update:DiscriminatorUpdater.update"
    " 3 before",
    "within a measurement": "advgrpo.training.held_out:HeldOutMonitor.measure 2 after",
    "between upload and note": "advgrpo.tracking.outbox:Outbox.mark_sent 9 before",
    "before the training is committed": f"{_S3}.write_bytes 1 before result/commit",
    "after the training is committed": f"{_S3}.write_bytes 1 after result/commit",
    "between a batch and its hash": f"{_S3}.write_bytes 1 after measured .safetensors",
    "before the evaluation is committed": f"{_S3}.write_bytes 1 before evaluations commit",
    "after the evaluation is committed": f"{_S3}.write_bytes 1 after evaluations commit",
    "after the model is logged": "mlflow:MlflowClient.finalize_logged_model 1 after",
    "after the model's measures": "mlflow:MlflowClient.log_outputs 1 after",
    "after the version is made": "mlflow:MlflowClient.create_model_version 1 after",
    "before the run is ended": "advgrpo.tracking.runs:end_parent_run 1 before",
}
"""Point -> module, function, which of its calls, before or after, and words in its arguments."""


def arm() -> None:
    """Make this process wait at the point that its environment names, if any."""
    point = os.environ.get(POINT_VARIABLE)
    if not point:
        return
    where, number, when, *words = POINTS[point].split()
    module, _, path = where.partition(":")
    owner: Any = importlib.import_module(module)
    *classes, name = path.split(".")
    for step in classes:
        owner = getattr(owner, step)
    _replace(owner, name, _wrap(getattr(owner, name), int(number), when, words))


def _replace(owner: object, name: str, function: Callable[..., Any]) -> None:
    setattr(owner, name, function)


def _wrap(
    function: Callable[..., Any], number: int, when: str, words: list[str]
) -> Callable[..., Any]:
    calls = 0

    @wraps(function)
    def call(*arguments: Any, **named: Any) -> Any:  # noqa: ANN401 - whatever it takes and gives
        nonlocal calls
        text = " ".join(map(str, arguments))
        due = False
        if all(word in text for word in words):
            calls += 1
            due = calls == number
        if due and when == "before":
            _wait_at_point()
        result = function(*arguments, **named)
        if due and when == "after":
            _wait_at_point()
        return result

    return call


def _wait_at_point() -> None:
    Path(os.environ[MARK_VARIABLE]).touch()
    time.sleep(600)
