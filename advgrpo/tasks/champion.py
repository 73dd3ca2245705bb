"""The champion that a trained adapter has to beat, laid where all machines find it."""

import os
from contextlib import AbstractContextManager
from dataclasses import dataclass

from advgrpo.config import AdapterConfig, RunConfig
from advgrpo.errors import PromotionError, TrackingError
from advgrpo.evaluation.parts import Champion
from advgrpo.policy.saved_adapter import PEFT_WEIGHTS
from advgrpo.policy.sd3 import Sd3Policy
from advgrpo.storage import commit_of, file_sha256, join, local_folder, upload_folder
from advgrpo.tasks.running import TRACKING_URI


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

    def for_policy(self, policy: Sd3Policy) -> Champion | None:
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
        Nothing found without an MLflow server or a champion. A champion that cannot be fetched, was
        changed or is for another base model is no error here: the evaluation marks the comparison
        as missing, and the gates fail on it.
    """
    tracking_uri = os.environ.get(TRACKING_URI)
    if not tracking_uri:
        return FoundChampion()
    # MLflow takes seconds to load.
    from advgrpo.tracking.models import current_champion  # noqa: PLC0415

    try:
        champion = current_champion(
            config.promotion.registered_model, tracking_uri=tracking_uri, policy=config.policy
        )
    except (PromotionError, TrackingError) as error:
        return FoundChampion(missing=error.message)
    if champion is None:
        return FoundChampion()
    digest = file_sha256(champion.adapter / PEFT_WEIGHTS)
    location = join(workspace, "champions", digest[:16])
    if commit_of(location) is None:
        upload_folder(champion.adapter, location)
    return FoundChampion(
        champion.version, digest, location, champion.adapter_config.model_dump_json()
    )
