"""Decide which version of a registered model is its champion.

One decision, `judge`, serves the command line, the webhook receiver and the reconciler.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion

from advgrpo.errors import AdvGrpoError, PromotionError, TrackingError
from advgrpo.registry.champion import ChampionState, crown, promotion_lock, standing
from advgrpo.registry.promotion_check import ROLLED_BACK_TAG, called, judge
from advgrpo.registry.versions import (
    MODEL_TAG,
    fetched_version,
    find_version,
    uri_of,
)
from advgrpo.telemetry.logging import event
from advgrpo.tracking.connection import FAULTS, connect, explained

REQUEST_TAG = "advgrpo.promote"
"""Set to `true` on a version in MLflow, it asks for promotion; becomes `granted` or `refused`."""

DECISION_TAG = "advgrpo.decision"
OVERRIDE_TAG = "advgrpo.override"
"""The last promotion by override, why, and what it set aside; later decisions leave it."""

ANNOUNCED_TAG = "advgrpo.announced"

_SOMEBODY = "somebody in MLflow"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Promotion:
    """A version that became champion."""

    name: str
    version: int
    uri: str
    """`models:/name/version`."""


Announce = Callable[[Promotion], str]
"""Told of each new champion; returns in a few words what it did, for a tag."""


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
        by: Who asks, for the record.
        override_reason: Why objections are to be set aside; empty sets none aside.
        announce: Told of the new champion.

    Raises:
        PromotionError: If gates failed or the champion that it was compared with is no longer
            champion, and there is no reason to override; or if the version is damaged or for
            another base model. The champion stays.
        TrackingError: If there is no such version, or MLflow is not available.
    """
    with _change(name, tracking_uri) as client:
        _settle(client, name, tracking_uri)
        version = find_version(client, name, which)
        now = standing(client, name)
        number = int(version.version)
        if number == now.lawful:
            return Promotion(name, number, uri_of(version))
        judgement = judge(version, _champion(client, name, now), tracking_uri)
        if judgement.damage or (judgement.objections and not override_reason):
            _record(client, version, f"refused: {judgement}", by)
            raise PromotionError(
                f"{uri_of(version)} is not promoted: {judgement}",
                repair="use another version"
                if judgement.damage
                else "train or evaluate again; or --override --reason WHY, which is recorded",
            )
        text = "promoted"
        if judgement.objections:
            text = f"promoted by override ({override_reason}) although: {judgement}"
            _record(client, version, text, by, tag=OVERRIDE_TAG)
        _promote(client, version, now, text, by)
    _announce(name, tracking_uri, announce)
    return Promotion(name, number, uri_of(version))


def rollback(
    name: str, *, tracking_uri: str, by: str, reason: str, announce: Announce | None = None
) -> Promotion:
    """Make the champion before this one champion again.

    Args:
        name: The registered model.
        tracking_uri: The MLflow server.
        by: Who asks, for the record.
        reason: Why, for the record.
        announce: Told of the champion.

    Raises:
        PromotionError: If there was none before, or its files are no longer what they were.
        TrackingError: If MLflow is not available.
    """
    with _change(name, tracking_uri) as client:
        _settle(client, name, tracking_uri)
        now = standing(client, name)
        if len(now.history) < 2:
            raise PromotionError(
                f"{name} had no champion before {called(now.lawful)}",
                repair="promote another version",
            )
        version = find_version(client, name, str(now.history[-2]))
        with fetched_version(version, tracking_uri):
            pass
        _roll_back(client, version, now, reason, by)
    _announce(name, tracking_uri, announce)
    return Promotion(name, int(version.version), uri_of(version))


def reconcile(tracking_uri: str, *, name: str = "", announce: Announce | None = None) -> list[str]:
    """Judge what was done in MLflow's own pages, and set right what is not lawful.

    A version that the alias `champion` was moved to stays champion if it may be; else the alias
    moves back. A version with the tag `advgrpo.promote` = `true` is promoted if it may be.
    Repeated, it changes nothing more.

    Args:
        tracking_uri: The MLflow server.
        name: One registered model; empty for all that hold adapters.
        announce: Told of new champions.

    Returns:
        What was decided, in words.

    Raises:
        PromotionError: If another process changes the same model for too long.
        TrackingError: If MLflow is not available.
    """
    decided: list[str] = []
    faults: list[AdvGrpoError] = []
    for one in [name] if name else registered_models(tracking_uri):
        try:
            decided += _reconcile(one, tracking_uri)
            _announce(one, tracking_uri, announce)
        except AdvGrpoError as error:
            # What is wrong with one model must not keep the others waiting.
            faults.append(error)
    if faults:
        raise faults[0]
    return decided


def _reconcile(name: str, tracking_uri: str) -> list[str]:
    with _faults(name, tracking_uri):
        client = connect(tracking_uri)
        if standing(client, name).is_settled and not _requests(client, name):
            return []
        with promotion_lock(client, name):
            return _settle(client, name, tracking_uri)


def registered_models(tracking_uri: str) -> list[str]:
    """List the registered models that hold adapters.

    Raises:
        TrackingError: If MLflow is not available.
    """
    with _faults("the registry", tracking_uri):
        client = connect(tracking_uri)
        names: list[str] = []
        token: str | None = None
        while token != "":
            page = client.search_registered_models(max_results=100, page_token=token)
            names += [model.name for model in page if MODEL_TAG in model.tags]
            token = page.token or ""
        return names


def _requests(client: MlflowClient, name: str) -> list[ModelVersion]:
    found = client.search_model_versions(f"name = '{name}' and tags.`{REQUEST_TAG}` = 'true'")
    return sorted(found, key=lambda version: int(version.version))


def _settle(client: MlflowClient, name: str, tracking_uri: str) -> list[str]:
    """Do what `reconcile` says, with the lock held."""
    decided = _settle_alias(client, name, tracking_uri)
    for version in _requests(client, name):
        now = standing(client, name)
        judgement = judge(version, _champion(client, name, now), tracking_uri)
        if int(version.version) == now.lawful or judgement.is_lawful:
            if int(version.version) != now.lawful:
                _promote(client, version, now, f"promoted: {judgement}", _SOMEBODY)
            outcome = "granted"
        else:
            _record(client, version, f"refused: {judgement}", _SOMEBODY)
            outcome = "refused"
        client.set_model_version_tag(name, str(version.version), REQUEST_TAG, outcome)
        decided.append(f"{uri_of(version)}: promotion {outcome}: {judgement}")
    return decided


def _settle_alias(client: MlflowClient, name: str, tracking_uri: str) -> list[str]:
    now = _present(client, name)
    if now.named in {None, now.lawful}:
        if now.is_settled:
            return []
        crown(client, name, now.history)
        return [f"{name}: its champion is {called(now.lawful)}, and its aliases say so again"]
    if now.named in now.history[-2:-1] and not now.is_moved_back:
        crown(client, name, now.history)
        return [f"{name}: the promotion of {called(now.lawful)}, which broke off, is completed"]
    version = find_version(client, name, str(now.named))
    judgement = judge(version, _champion(client, name, now), tracking_uri)
    if now.is_moved_back and not judgement.damage:
        _roll_back(client, version, now, "the alias was moved back", _SOMEBODY)
        return [f"{uri_of(version)}: champion again instead of {called(now.lawful)}"]
    if judgement.is_lawful:
        _promote(client, version, now, f"promoted: {judgement}", _SOMEBODY)
        return [f"{uri_of(version)}: accepted as champion: {judgement}"]
    crown(client, name, now.history)
    text = f"refused: {judgement}; the alias champion was moved back to {called(now.lawful)}"
    _record(client, version, text, _SOMEBODY)
    return [f"{uri_of(version)}: {text}"]


def _roll_back(
    client: MlflowClient, version: ModelVersion, now: ChampionState, reason: str, by: str
) -> None:
    name, left = version.name, find_version(client, version.name, str(now.lawful))
    # First, so that no look in between makes it champion again.
    client.set_model_version_tag(name, str(left.version), ROLLED_BACK_TAG, reason)
    crown(client, name, now.history[:-1])
    _record(client, left, f"rolled back to version {version.version}: {reason}", by)
    _record(client, version, f"champion again: version {left.version} was rolled back", by)


def _promote(
    client: MlflowClient, version: ModelVersion, now: ChampionState, text: str, by: str
) -> None:
    crown(client, version.name, (*now.history, int(version.version)))
    if ROLLED_BACK_TAG in version.tags:
        client.delete_model_version_tag(version.name, str(version.version), ROLLED_BACK_TAG)
    _record(client, version, f"{text}; before it, the champion was {called(now.lawful)}", by)


def _record(
    client: MlflowClient, version: ModelVersion, text: str, by: str, *, tag: str = DECISION_TAG
) -> None:
    when = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
    # MLflow takes up to 5000 characters on some stores.
    value = f"{text} ({by}, {when})"[:4000]
    client.set_model_version_tag(version.name, str(version.version), tag, value)
    note = event("version_decided", model=version.name, version=str(version.version))
    logger.info("%s: %s", uri_of(version), value, extra=note)


def _announce(name: str, tracking_uri: str, announce: Announce | None) -> None:
    """Tell of a champion once; what fails is tried again by the next look."""
    if announce is None:
        return
    with _faults(name, tracking_uri):
        client = connect(tracking_uri)
        if not _is_news(client, name, standing(client, name)):
            return
        with promotion_lock(client, name):
            now = standing(client, name)
            if now.lawful is None or not _is_news(client, name, now):
                return
            version = find_version(client, name, str(now.lawful))
            try:
                done = announce(Promotion(name, now.lawful, uri_of(version)))
            except AdvGrpoError as error:
                logger.warning(
                    "%s is champion, but nothing was started: %s", uri_of(version), error
                )
                return
            client.set_registered_model_tag(name, ANNOUNCED_TAG, _mark(now))
            client.set_model_version_tag(name, str(now.lawful), ANNOUNCED_TAG, done)


def _is_news(client: MlflowClient, name: str, now: ChampionState) -> bool:
    told = client.get_registered_model(name).tags.get(ANNOUNCED_TAG, "")
    return now.lawful is not None and told != _mark(now)


def _mark(now: ChampionState) -> str:
    return " ".join(map(str, now.history))


def _champion(client: MlflowClient, name: str, now: ChampionState) -> ModelVersion | None:
    return None if now.lawful is None else find_version(client, name, str(now.lawful))


def _present(client: MlflowClient, name: str) -> ChampionState:
    """Look up who is champion; versions that were deleted are none."""
    now = standing(client, name)
    while now.history:
        try:
            find_version(client, name, str(now.lawful))
        except TrackingError:
            now = replace(now, history=now.history[:-1])
        else:
            break
    return now


@contextmanager
def _change(name: str, tracking_uri: str) -> Iterator[MlflowClient]:
    with _faults(name, tracking_uri):
        client = connect(tracking_uri)
        standing(client, name)
        with promotion_lock(client, name):
            yield client


@contextmanager
def _faults(name: str, tracking_uri: str) -> Iterator[None]:
    try:
        yield
    except FAULTS as error:
        raise explained(error, f"look after {name}", tracking_uri) from error
