"""The champion that an evaluation compares with, copied to the workspace."""

import logging
import os
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from advgrpo.config.policy import AdapterConfig
from advgrpo.config.run import RunConfig
from advgrpo.errors import PromotionError, TrackingError
from advgrpo.evaluation.results import Champion
from advgrpo.models.policies.base import Policy
from advgrpo.records import PEFT_WEIGHTS
from advgrpo.storage.fetch import local_folder
from advgrpo.storage.folders import read_commit, upload_folder
from advgrpo.storage.local import file_sha256
from advgrpo.storage.locations import join
from advgrpo.tracking.address import TRACKING_URI

if TYPE_CHECKING:
    from advgrpo.registry.champion import RegisteredChampion

RETRY_SECONDS = 300.0
"""Time for retries while the MLflow server is unavailable: without it, every gate against the
champion fails."""

logger = logging.getLogger("advgrpo")


@dataclass(frozen=True)
class FoundChampion:
    """A champion, as plain data for other processes, or the reason why there is none to use."""

    version: int | None = None
    """Number of its version; None without a champion to compare with."""

    digest: str = ""
    """SHA-256 of the adapter's weights."""

    location: str = ""
    """Location of the adapter in the workspace."""

    adapter_config: str = ""
    """`AdapterConfig` of the adapter, as JSON text."""

    missing: str = ""
    """Why an existing champion cannot be used; empty if it can, or if there is none."""

    def for_policy(self, policy: Policy) -> Champion | None:
        """Return the champion as an evaluation uses it with a policy; None without one."""
        if self.version is None:
            return None
        config = AdapterConfig.model_validate_json(self.adapter_config)

        def adapter() -> AbstractContextManager[None]:
            return policy.other_adapter(local_folder(self.location), config)

        return Champion(self.version, self.digest, adapter)


def find_champion(config: RunConfig, *, workspace: str) -> FoundChampion:
    """Find the registered model's champion, and copy its adapter to the workspace.

    Requests to an unavailable MLflow server are retried for `RETRY_SECONDS`. A champion that cannot
    be downloaded, has changed or belongs to another base model is not an error: the evaluation
    marks the comparison as missing, and the gates fail.

    Args:
        config: Settings with the registered model and the base model.
        workspace: Local path or `s3://` location for the adapter.

    Returns:
        A result without a version if there is no MLflow server or no champion.
    """
    tracking_uri = os.environ.get(TRACKING_URI)
    if not tracking_uri:
        return FoundChampion()
    try:
        champion = _read_with_retries(config, tracking_uri)
    # The evaluation is valid without the comparison, and the gates against the champion then fail.
    except (PromotionError, TrackingError) as error:
        return FoundChampion(missing=error.message)
    if champion is None:
        return FoundChampion()
    digest = file_sha256(champion.adapter / PEFT_WEIGHTS)
    # Other machines of a job read this copy; only the first one connects to MLflow. Named by
    # content, so that evaluations share it.
    location = join(workspace, "champions", digest[:16])
    if read_commit(location) is None:
        upload_folder(champion.adapter, location)
    return FoundChampion(
        champion.version, digest, location, champion.adapter_config.model_dump_json()
    )


def _read_with_retries(config: RunConfig, tracking_uri: str) -> "RegisteredChampion | None":
    # MLflow takes seconds to load.
    from advgrpo.registry.champion import current_champion  # noqa: PLC0415
    from advgrpo.tracking.connection import FAULTS, is_missing, is_refused  # noqa: PLC0415

    name, end = config.promotion.registered_model, time.monotonic() + RETRY_SECONDS
    while True:
        try:
            return current_champion(name, tracking_uri=tracking_uri, policy=config.policy)
        except TrackingError as error:
            cause = error.__cause__
            # A rejected request or a missing version stays so; only a server that is not reachable
            # may return.
            is_transient = isinstance(cause, FAULTS) and not (
                is_refused(cause) or is_missing(cause)
            )
            if not is_transient or time.monotonic() > end:
                raise
            logger.warning("retrying to read the champion: %s", error.message)
            time.sleep(RETRY_SECONDS / 60)
