"""Promotion of a version to champion, and rollback to the previous one."""

from collections.abc import Iterator
from contextlib import contextmanager

from mlflow import MlflowClient

from advgrpo.errors import PromotionError
from advgrpo.registry.champion import promotion_lock, read_champion
from advgrpo.registry.champion_changes import (
    OVERRIDE_TAG,
    Announce,
    Promotion,
    announce_champion,
    champion_version,
    make_champion,
    record_decision,
    registry_errors,
    restore_previous,
)
from advgrpo.registry.promotion_check import check_promotion, version_name
from advgrpo.registry.reconciliation import reconcile_locked
from advgrpo.registry.versions import download_version, find_version, version_uri
from advgrpo.tracking.connection import connect


def promote(
    name: str,
    which: str,
    *,
    tracking_uri: str,
    by: str,
    override_reason: str = "",
    announce: Announce | None = None,
) -> Promotion:
    """Make a version the champion.

    Args:
        name: The registered model.
        which: Number or alias of the version.
        tracking_uri: The MLflow server.
        by: Author of the request, for the record.
        override_reason: Reason to set objections aside; empty sets none aside.
        announce: Hook for the new champion.

    Raises:
        PromotionError: If gates failed, or the champion changed since the version was compared
            with it, and no reason to override is given; or if the version is damaged or for another
            base model. The champion stays.
        TrackingError: If the version does not exist, or MLflow is not available.
    """
    with _locked(name, tracking_uri) as client:
        # A change by hand counts before this one, which is compared with its outcome.
        reconcile_locked(client, name, tracking_uri)
        version = find_version(client, name, which)
        # Read after the reconciliation, which may have changed the champion.
        state = read_champion(client, name)
        number = int(version.version)
        if number == state.recorded:
            return Promotion(name, number, version_uri(version))
        check = check_promotion(version, champion_version(client, name, state), tracking_uri)
        if check.errors or (check.objections and not override_reason):
            record_decision(client, version, f"refused: {check}", by)
            raise PromotionError(
                f"{version_uri(version)} is not promoted: {check}",
                repair="promote another version"
                if check.errors
                else "train or evaluate again; or use --override --reason TEXT, which is recorded",
            )
        decision = "promoted"
        if check.objections:
            decision = f"promoted by override ({override_reason}) although: {check}"
            record_decision(client, version, decision, by, tag=OVERRIDE_TAG)
        make_champion(client, version, state, decision, by)
    # Outside of the lock, which `announce_champion` takes itself.
    announce_champion(name, tracking_uri, announce)
    return Promotion(name, number, version_uri(version))


def rollback(
    name: str, *, tracking_uri: str, by: str, reason: str, announce: Announce | None = None
) -> Promotion:
    """Make the previous champion the champion again.

    Args:
        name: The registered model.
        tracking_uri: The MLflow server.
        by: Author of the request, for the record.
        reason: Reason, for the record.
        announce: Hook for the new champion.

    Raises:
        PromotionError: If there was no previous champion.
        TrackingError: If a file of it differs from the registered one, or MLflow is not available.
    """
    with _locked(name, tracking_uri) as client:
        # A change by hand counts before this one, as in `promote`.
        reconcile_locked(client, name, tracking_uri)
        state = read_champion(client, name)
        if len(state.history) < 2:
            raise PromotionError(
                f"{name} had no champion before {version_name(state.recorded)}",
                repair="promote another version",
            )
        version = find_version(client, name, str(state.history[-2]))
        # Only for its checks: a damaged version must not become champion.
        with download_version(version, tracking_uri):
            pass
        restore_previous(client, version, state, reason, by)
    # Outside of the lock, which it takes itself.
    announce_champion(name, tracking_uri, announce)
    return Promotion(name, int(version.version), version_uri(version))


@contextmanager
def _locked(name: str, tracking_uri: str) -> Iterator[MlflowClient]:
    with registry_errors(name, tracking_uri):
        client = connect(tracking_uri)
        # Before the lock, which is created under any name.
        read_champion(client, name)
        with promotion_lock(client, name):
            yield client
