"""Reconciliation of champions with changes that were made in MLflow directly."""

from dataclasses import replace

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion

from advgrpo.errors import AdvGrpoError, TrackingError
from advgrpo.registry.champion import ChampionState, promotion_lock, read_champion, set_champion
from advgrpo.registry.champion_changes import (
    Announce,
    announce_champion,
    champion_version,
    list_registered_models,
    make_champion,
    record_decision,
    registry_errors,
    restore_previous,
)
from advgrpo.registry.promotion_check import check_promotion, version_name
from advgrpo.registry.versions import find_version, version_uri
from advgrpo.tracking.connection import connect

REQUEST_TAG = "advgrpo.promote"
"""Tag of a version: `true` requests its promotion; the answer is `granted` or `refused`."""

_MLFLOW_USER = "a user of MLflow"


def reconcile(tracking_uri: str, *, name: str = "", announce: Announce | None = None) -> list[str]:
    """Check changes that were made in MLflow directly, and undo those that are not allowed.

    A version that the alias `champion` was moved to stays champion if its check passes; otherwise
    the alias moves back. A version with the tag `advgrpo.promote` = `true` is promoted if its check
    passes. Idempotent.

    Args:
        tracking_uri: The MLflow server.
        name: One registered model; empty for all that hold adapters.
        announce: Hook for new champions.

    Returns:
        Descriptions of the decisions.

    Raises:
        PromotionError: If another process holds the lock of a model for too long.
        TrackingError: If MLflow is not available.
    """
    decisions: list[str] = []
    errors: list[AdvGrpoError] = []
    for model in [name] if name else list_registered_models(tracking_uri):
        try:
            decisions += _reconcile(model, tracking_uri)
            # Also without a decision: the hook of an earlier promotion may have failed.
            announce_champion(model, tracking_uri, announce)
        except AdvGrpoError as error:
            # A damaged model must not block the others.
            errors.append(error)
    if errors:
        raise errors[0]
    return decisions


def _reconcile(name: str, tracking_uri: str) -> list[str]:
    with registry_errors(name, tracking_uri):
        client = connect(tracking_uri)
        # Without the lock, so that periodic reconciliation does not write to MLflow.
        if read_champion(client, name).in_sync and not _requests(client, name):
            return []
        with promotion_lock(client, name):
            return reconcile_locked(client, name, tracking_uri)


def reconcile_locked(client: MlflowClient, name: str, tracking_uri: str) -> list[str]:
    """Reconcile one registered model, whose lock the caller holds."""
    # Before the requests, which are compared with the champion.
    decisions = _reconcile_alias(client, name, tracking_uri)
    for version in _requests(client, name):
        # The champion may have changed with the previous request.
        state = read_champion(client, name)
        check = check_promotion(version, champion_version(client, name, state), tracking_uri)
        if int(version.version) == state.recorded or check.ok:
            if int(version.version) != state.recorded:
                make_champion(client, version, state, f"promoted: {check}", _MLFLOW_USER)
            outcome = "granted"
        else:
            record_decision(client, version, f"refused: {check}", _MLFLOW_USER)
            outcome = "refused"
        # Only `true` is a request, so the answer also keeps it from being handled again.
        client.set_model_version_tag(name, str(version.version), REQUEST_TAG, outcome)
        decisions.append(f"{version_uri(version)}: promotion {outcome}: {check}")
    return decisions


def _reconcile_alias(client: MlflowClient, name: str, tracking_uri: str) -> list[str]:
    state = _existing_champion(client, name)
    recorded = version_name(state.recorded)
    if state.aliased in {None, state.recorded}:
        if state.in_sync:
            return []
        set_champion(client, name, state.history)
        return [f"{name}: its aliases are restored, the champion is {recorded}"]
    # The history is written first: the alias still at the previous champion is an interruption.
    if state.aliased in state.history[-2:-1] and not state.alias_moved_back:
        set_champion(client, name, state.history)
        return [f"{name}: the interrupted promotion of {recorded} is completed"]
    version = find_version(client, name, str(state.aliased))
    check = check_promotion(version, champion_version(client, name, state), tracking_uri)
    # Objections do not count: it has been champion, and a rollback must always be possible.
    if state.alias_moved_back and not check.errors:
        restore_previous(client, version, state, "the alias was moved back", _MLFLOW_USER)
        return [f"{version_uri(version)}: champion again instead of {recorded}"]
    if check.ok:
        make_champion(client, version, state, f"promoted: {check}", _MLFLOW_USER)
        return [f"{version_uri(version)}: accepted as champion: {check}"]
    set_champion(client, name, state.history)
    text = f"refused: {check}; the alias champion was moved back to {recorded}"
    record_decision(client, version, text, _MLFLOW_USER)
    return [f"{version_uri(version)}: {text}"]


def _requests(client: MlflowClient, name: str) -> list[ModelVersion]:
    versions = client.search_model_versions(f"name = '{name}' and tags.`{REQUEST_TAG}` = 'true'")
    # In a fixed order: after the first promotion, the others were compared with a former champion.
    return sorted(versions, key=lambda version: int(version.version))


def _existing_champion(client: MlflowClient, name: str) -> ChampionState:
    """Read the champions, without the latest ones whose versions were deleted."""
    state = read_champion(client, name)
    while state.history:
        try:
            find_version(client, name, str(state.recorded))
        except TrackingError:
            state = replace(state, history=state.history[:-1])
        else:
            break
    return state
