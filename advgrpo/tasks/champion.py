"""The champion that a trained adapter has to beat, laid where all machines find it."""

import logging
import os
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from advgrpo.config import AdapterConfig, RunConfig
from advgrpo.errors import PromotionError, TrackingError
from advgrpo.evaluation.batches import Champion
from advgrpo.models.policies.base import Policy
from advgrpo.models.policies.saved_adapter import PEFT_WEIGHTS
from advgrpo.storage import file_sha256, join, read_commit, upload_folder
from advgrpo.storage.fetch import local_folder
from advgrpo.tracking.address import TRACKING_URI

if TYPE_CHECKING:
    from advgrpo.registry.versions import Champion as RegisteredChampion

PATIENCE_SECONDS = 300.0
"""How long an MLflow server that does not answer is asked again: without its answer, every gate
against the champion fails."""

logger = logging.getLogger("advgrpo")


@dataclass(frozen=True)
class FoundChampion:
    """A champion as text can carry it; or why one cannot be used."""

    version: int | None = None
    """None if there is no champion to compare with."""

    digest: str = ""
    """SHA-256 of its adapter's weights."""

    location: str = ""
    """Folder of its adapter, in the workspace."""

    adapter_config: str = ""
    """Its `AdapterConfig` as JSON text."""

    missing: str = ""
    """Why the champion that there is cannot be used, in words."""

    def for_policy(self, policy: Policy) -> Champion | None:
        """Let a policy draw as this champion; None if there is none."""
        if self.version is None:
            return None
        config = AdapterConfig.model_validate_json(self.adapter_config)

        def adapter() -> AbstractContextManager[None]:
            return policy.other_adapter(local_folder(self.location), config)

        return Champion(self.version, self.digest, adapter)


def find_champion(config: RunConfig, *, workspace: str) -> FoundChampion:
    """Look up the registered model's champion.

    Args:
        config: Names the registered model and the base model.
        workspace: Gets a copy of the champion's adapter.

    Returns:
        Nothing found without an MLflow server or a champion. A server that does not answer is asked
        again for `PATIENCE_SECONDS`. A champion that cannot be fetched, was
        changed or is for another base model is no error here: the evaluation marks the comparison
        as missing, and the gates fail on it.
    """
    tracking_uri = os.environ.get(TRACKING_URI)
    if not tracking_uri:
        return FoundChampion()
    try:
        champion = _asked_patiently(config, tracking_uri)
    except (PromotionError, TrackingError) as error:
        return FoundChampion(missing=error.message)
    if champion is None:
        return FoundChampion()
    digest = file_sha256(champion.adapter / PEFT_WEIGHTS)
    location = join(workspace, "champions", digest[:16])
    if read_commit(location) is None:
        upload_folder(champion.adapter, location)
    return FoundChampion(
        champion.version, digest, location, champion.adapter_config.model_dump_json()
    )


def _asked_patiently(config: RunConfig, tracking_uri: str) -> "RegisteredChampion | None":
    # MLflow takes seconds to load.
    from advgrpo.registry.versions import current_champion  # noqa: PLC0415
    from advgrpo.tracking.connection import FAULTS, is_missing, is_refused  # noqa: PLC0415

    name, end = config.promotion.registered_model, time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            return current_champion(name, tracking_uri=tracking_uri, policy=config.policy)
        except TrackingError as error:
            cause = error.__cause__
            passes = isinstance(cause, FAULTS) and not (is_refused(cause) or is_missing(cause))
            if not passes or time.monotonic() > end:
                raise
            logger.warning("asking again for the champion: %s", error.message)
            time.sleep(PATIENCE_SECONDS / 60)
