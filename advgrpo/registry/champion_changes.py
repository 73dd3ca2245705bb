"""Changes of a champion, with their decisions recorded as tags of the versions."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion

from advgrpo.errors import AdvGrpoError
from advgrpo.registry.champion import ChampionState, promotion_lock, read_champion, set_champion
from advgrpo.registry.promotion_check import ROLLED_BACK_TAG, version_name
from advgrpo.registry.versions import MODEL_TAG, find_version, version_uri
from advgrpo.telemetry.logging import event
from advgrpo.tracking.connection import FAULTS, connect, describe_error

DECISION_TAG = "advgrpo.decision"
OVERRIDE_TAG = "advgrpo.override"
"""Tag with the last promotion by override and its reason, which later decisions keep."""

ANNOUNCED_TAG = "advgrpo.announced"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Promotion:
    """A version that became champion."""

    name: str
    version: int
    uri: str
    """`models:/name/version`."""


Announce = Callable[[Promotion], str]
"""Hook for each new champion; returns a short description of its action, for a tag."""


def make_champion(
    client: MlflowClient, version: ModelVersion, state: ChampionState, decision: str, by: str
) -> None:
    """Make a version the champion and record why. Requires the lock."""
    # The champion comes first: if the process is killed after it, only tags of the version are old.
    set_champion(client, version.name, (*state.history, int(version.version)))
    # An override ends the rollback of this version.
    if ROLLED_BACK_TAG in version.tags:
        client.delete_model_version_tag(version.name, str(version.version), ROLLED_BACK_TAG)
    before = version_name(state.recorded)
    record_decision(client, version, f"{decision}; before it, the champion was {before}", by)


def restore_previous(
    client: MlflowClient, previous: ModelVersion, state: ChampionState, reason: str, by: str
) -> None:
    """Make the previous champion the champion again and record why. Requires the lock."""
    name, current = previous.name, find_version(client, previous.name, str(state.recorded))
    # Before the alias moves, so that a concurrent reconciliation does not promote it again.
    client.set_model_version_tag(name, str(current.version), ROLLED_BACK_TAG, reason)
    set_champion(client, name, state.history[:-1])
    record_decision(client, current, f"rolled back to version {previous.version}: {reason}", by)
    record_decision(
        client, previous, f"champion again: version {current.version} was rolled back", by
    )


def record_decision(
    client: MlflowClient, version: ModelVersion, text: str, by: str, *, tag: str = DECISION_TAG
) -> None:
    """Record a decision about a version in a tag and in the log."""
    when = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
    # Some MLflow stores limit tags to 5000 characters.
    value = f"{text} ({by}, {when})"[:4000]
    client.set_model_version_tag(version.name, str(version.version), tag, value)
    details = event("version_decided", model=version.name, version=str(version.version))
    logger.info("%s: %s", version_uri(version), value, extra=details)


def announce_champion(name: str, tracking_uri: str, announce: Announce | None) -> None:
    """Call the hook once for each champion; a failed call is retried by the next reconciliation."""
    if announce is None:
        return
    with registry_errors(name, tracking_uri):
        client = connect(tracking_uri)
        # Without the lock, which writes to MLflow: in most calls there is nothing to announce.
        if not _is_new(client, name, read_champion(client, name)):
            return
        # Checked again under the lock: another process may have announced it in the meantime.
        with promotion_lock(client, name):
            state = read_champion(client, name)
            if state.recorded is None or not _is_new(client, name, state):
                return
            version = find_version(client, name, str(state.recorded))
            try:
                action = announce(Promotion(name, state.recorded, version_uri(version)))
            # A failed hook must not undo the promotion. Without the tag, the next reconciliation
            # calls it again.
            except AdvGrpoError as error:
                logger.warning(
                    "%s is champion, but its promotion hook failed: %s", version_uri(version), error
                )
                return
            # After the hook: a crash in between repeats the hook rather than losing it.
            client.set_registered_model_tag(name, ANNOUNCED_TAG, _announcement(state))
            client.set_model_version_tag(name, str(state.recorded), ANNOUNCED_TAG, action)


def _is_new(client: MlflowClient, name: str, state: ChampionState) -> bool:
    announced = client.get_registered_model(name).tags.get(ANNOUNCED_TAG, "")
    return state.recorded is not None and announced != _announcement(state)


def _announcement(state: ChampionState) -> str:
    # The whole history: a version that becomes champion a second time is announced again.
    return " ".join(map(str, state.history))


def champion_version(client: MlflowClient, name: str, state: ChampionState) -> ModelVersion | None:
    """Return the recorded champion, or None."""
    return None if state.recorded is None else find_version(client, name, str(state.recorded))


def list_registered_models(tracking_uri: str) -> list[str]:
    """List the registered models that hold adapters.

    Raises:
        TrackingError: If MLflow is not available.
    """
    with registry_errors("the registry", tracking_uri):
        client = connect(tracking_uri)
        names: list[str] = []
        token: str | None = None
        # MLflow returns the list in pages; the last one has no token.
        while token != "":
            page = client.search_registered_models(max_results=100, page_token=token)
            names += [model.name for model in page if MODEL_TAG in model.tags]
            token = page.token or ""
        return names


@contextmanager
def registry_errors(name: str, tracking_uri: str) -> Iterator[None]:
    """Convert errors of MLflow into tracking errors."""
    try:
        yield
    except FAULTS as error:
        raise describe_error(error, f"read or change {name}", tracking_uri) from error
