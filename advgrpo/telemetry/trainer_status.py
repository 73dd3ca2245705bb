"""Progress in the status of a TrainJob, `status.trainerStatus`, where Trainer accepts it.

Trainer gives pods an address, a token and a certificate if its feature gate TrainJobStatus is on.

Source:
    Kubeflow Trainer 2.3, `pkg/statusserver/server.go`,
    `pkg/runtime/framework/plugins/trainjobstatus/trainjobstatus.go`.
"""

import json
import logging
import math
import os
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

_URL, _CERTIFICATE, _TOKEN = (
    f"KUBEFLOW_TRAINER_SERVER_{name}" for name in ("URL", "CA_CERT", "TOKEN")
)
_TIMEOUT_SECONDS = 10.0
_LONGEST, _MOST = 64, 256
"""Characters of a name, and metrics, that the status may have."""

_PREPARATION = {
    "base model images",
    "checking reference images",
    "checking style images",
    "prompt embeddings",
    "reference features",
}
"""Phases that precede that of the task: when they are done, the job is not."""

_logger = logging.getLogger("advgrpo")


def report_trainer_status(progress: Mapping[str, Any]) -> None:
    """Send progress to Trainer; outside of its pods, do nothing.

    An error is logged at debug level only: the job does not depend on it.

    Args:
        progress: The heartbeat's progress.
    """
    url = os.environ.get(_URL)
    if not url:
        return
    try:
        # Read each time, because Kubernetes renews the token.
        token = Path(os.environ[_TOKEN]).read_text(encoding="utf-8").strip()
        request = Request(  # noqa: S310 - the address is Trainer's
            url,
            json.dumps({"trainerStatus": trainer_status(progress)}).encode(),
            {"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
        )
        context = ssl.create_default_context(cafile=os.environ[_CERTIFICATE])
        with urlopen(request, timeout=_TIMEOUT_SECONDS, context=context):  # noqa: S310 - as above
            pass
    except (OSError, KeyError) as error:
        _logger.debug("Trainer does not accept the progress: %s", error)


def trainer_status(progress: Mapping[str, Any]) -> dict[str, Any]:
    """Return progress as Trainer's schema has it."""
    done, total, left = progress["done"], progress["total"], progress["seconds_left"]
    status = {
        "lastUpdatedTime": progress["at"],
        "metrics": [
            {"name": name, "value": f"{value:.6g}"}
            for name, value in progress["metrics"].items()
            if math.isfinite(value) and len(name) <= _LONGEST
        ][:_MOST],
    }
    if progress.get("phase") in _PREPARATION:
        return status
    if total:
        status["progressPercentage"] = min(100 * done // total, 100)
    if left is not None:
        status["estimatedRemainingSeconds"] = max(int(left), 0)
    return status
