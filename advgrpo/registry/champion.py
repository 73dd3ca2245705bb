"""The champion of a registered model: its recorded history, its aliases, and a lock around both.

The history is a tag of the registered model, the list of its champions in order. It is written
before the aliases, so that the next reconciliation completes an interrupted change. An alias that
was moved by hand differs from the history, and its version is checked before it counts.
"""

import hashlib
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from advgrpo.config.policy import AdapterConfig, PolicyConfig
from advgrpo.errors import PromotionError
from advgrpo.registry.versions import (
    CHAMPION,
    MODEL_TAG,
    PREVIOUS,
    download_adapter,
    read_policy,
    version_by_alias,
    version_uri,
    with_absolute_paths,
)
from advgrpo.storage.cache import cache_folder
from advgrpo.tracking.connection import FAULTS, connect, describe_error, is_missing

CANDIDATE = "candidate"
HISTORY_TAG = "advgrpo.champions"
LOCK_TAG = "advgrpo.lock"

_HISTORY_LENGTH = 100
"""Champions in the history; MLflow limits the length of a tag."""


@dataclass(frozen=True)
class RegisteredChampion:
    """The version that is in use, downloaded and checked."""

    version: int
    uri: str
    """`models:/name/version`."""

    adapter: Path
    """Folder in peft's layout."""

    adapter_config: AdapterConfig
    """Rank, alpha and modules of this adapter, which may differ from the present run's."""


@dataclass(frozen=True)
class ChampionState:
    """Recorded champions and present aliases of a registered model."""

    history: tuple[int, ...]
    """Champions in order; the last one is the recorded champion."""

    aliases: Mapping[str, int]
    """Version of each alias."""

    @property
    def recorded(self) -> int | None:
        """The champion by the history."""
        return self.history[-1] if self.history else None

    @property
    def aliased(self) -> int | None:
        """The version of the alias `champion`."""
        return self.aliases.get(CHAMPION)

    @property
    def in_sync(self) -> bool:
        """Whether the aliases agree with the history."""
        expected = _expected_aliases(self.history)
        return all(self.aliases.get(alias) == expected.get(alias) for alias in (CHAMPION, PREVIOUS))

    @property
    def alias_moved_back(self) -> bool:
        """Whether the alias was moved by hand to the champion before the recorded one."""
        before = self.history[-2:-1]
        # After an interrupted promotion `champion` is there, too, but `previous` is not yet.
        return before == (self.aliased,) == (self.aliases.get(PREVIOUS),)


def read_champion(client: MlflowClient, name: str) -> ChampionState:
    """Read the champions of a registered model.

    Raises:
        PromotionError: If the registered model does not exist, or does not hold adapters.
    """
    try:
        model = client.get_registered_model(name)
    except MlflowException as error:
        if not is_missing(error):
            raise
        raise PromotionError(
            f"the registered model {name} does not exist",
            repair="use a name that `advgrpo registry list` shows",
        ) from error
    # Aliases of models that belong to other programs must not change.
    if MODEL_TAG not in model.tags:
        raise PromotionError(
            f"the registered model {name} does not hold adapters of advgrpo",
            repair="use a name that `advgrpo registry list` shows",
        )
    return ChampionState(
        # Anyone can edit the tag in MLflow, so parts that are not numbers are skipped.
        tuple(int(one) for one in model.tags.get(HISTORY_TAG, "").split() if one.isdecimal()),
        {alias: int(version) for alias, version in model.aliases.items()},
    )


def set_champion(client: MlflowClient, name: str, history: tuple[int, ...]) -> None:
    """Record a history and set the aliases accordingly. Requires the lock.

    Args:
        client: Client of the MLflow server.
        name: The registered model.
        history: Champions in order: the last becomes `champion`, the one before it `previous`.

    Raises:
        PromotionError: If the alias was moved meanwhile by a client without the lock.
    """
    history = history[-_HISTORY_LENGTH:]
    # First, so that an interruption leaves aliases that lag behind, which `reconcile` completes.
    client.set_registered_model_tag(name, HISTORY_TAG, " ".join(map(str, history)))
    expected = _expected_aliases(history)
    # Read again under the lock: aliases may have changed since the caller read them.
    before = read_champion(client, name).aliases
    for alias in (CHAMPION, PREVIOUS):
        version = expected.get(alias)
        if version is None and alias in before:
            client.delete_registered_model_alias(name, alias)
        elif version is not None and before.get(alias) != version:
            client.set_registered_model_alias(name, alias, str(version))
    # A version is not a candidate any more once it is the champion.
    if expected and before.get(CANDIDATE) == expected[CHAMPION]:
        client.delete_registered_model_alias(name, CANDIDATE)
    # MLflow's own pages and other clients change aliases without the lock.
    aliased = read_champion(client, name).aliased
    if aliased != expected.get(CHAMPION):
        raise PromotionError(
            f"the alias {CHAMPION} of {name} was moved to version {aliased} during the change",
            repair=f"run `advgrpo registry reconcile {name}`, which checks that version",
        )


def _expected_aliases(history: tuple[int, ...]) -> dict[str, int]:
    # Not strict: a history of one champion has no previous one.
    return dict(zip((CHAMPION, PREVIOUS), reversed(history), strict=False))


@contextmanager
def promotion_lock(
    client: MlflowClient, name: str, *, wait_seconds: float = 60.0, lease_seconds: float = 900.0
) -> Iterator[None]:
    """Hold the lock on a model's champion for the duration of the block.

    MLflow has no compare-and-set, but names of registered models are unique in its database: the
    process that creates the model `<name>-promotion-lock` holds the lock, and deletes the model
    afterwards. Limits: a process that dies keeps the lock until its lease expires; of several
    processes that then break it at the same time, two may proceed; and MLflow's own pages ignore
    it.

    Args:
        client: Client of the MLflow server.
        name: The registered model.
        wait_seconds: Timeout of the wait for another process.
        lease_seconds: Age after which a lock has expired.

    Raises:
        PromotionError: If another process still holds the lock after the timeout.
    """
    lock, token = f"{name}-promotion-lock", uuid.uuid4().hex
    # Monotonic for this wait. The age of a lock depends on this machine's clock and the server's.
    deadline = time.monotonic() + wait_seconds
    while not _acquire(client, lock, token, lease_seconds):
        if time.monotonic() > deadline:
            raise PromotionError(
                f"another process has been changing the champion of {name} for more than "
                f"{wait_seconds:.0f} s",
                repair=f"retry; if no such process runs, delete the registered model {lock}",
            )
        # MLflow has no notification to wait for.
        time.sleep(0.2)
    try:
        yield
    finally:
        # Another process may have broken the lock and hold it now.
        if _holder(client, lock)[0] == token:
            client.delete_registered_model(lock)


def _acquire(client: MlflowClient, lock: str, token: str, lease_seconds: float) -> bool:
    try:
        client.create_registered_model(lock, tags={LOCK_TAG: token})
    except MlflowException as error:
        # The server reports a lock as missing that is released while it creates another one.
        if error.error_code != "RESOURCE_ALREADY_EXISTS" and not is_missing(error):
            raise
        holder, since = _holder(client, lock)
        if holder and time.time() - since > lease_seconds:
            # Renaming succeeds for only one of several processes that break the same lock.
            broken = f"{lock}-broken-{token}"
            try:
                client.rename_registered_model(lock, broken)
                client.delete_registered_model(broken)
            except MlflowException as gone:
                if not is_missing(gone):
                    raise
        # A retried request finds the lock that its first attempt created.
        return holder == token
    return True


def _holder(client: MlflowClient, lock: str) -> tuple[str, float]:
    """Return the token of a lock's holder and its time; an empty token if it is free."""
    try:
        model = client.get_registered_model(lock)
    except MlflowException as error:
        if not is_missing(error):
            raise
        return "", 0.0
    return model.tags.get(LOCK_TAG, ""), model.creation_timestamp / 1000


def current_champion(
    registered_model: str, *, tracking_uri: str, policy: PolicyConfig
) -> RegisteredChampion | None:
    """Download the champion, which a new adapter is compared with.

    Args:
        registered_model: Name of the registered model.
        tracking_uri: The MLflow server.
        policy: Policy of the run; its base model must be the champion's.

    Returns:
        The version with the alias `champion`; None if no version has it.

    Raises:
        PromotionError: If the champion is an adapter for another base model.
        TrackingError: If MLflow is not available, or a file differs from the registered one.
    """
    version = champion_version(registered_model, tracking_uri=tracking_uri, policy=policy)
    if version is None:
        return None
    uri = version_uri(version)
    # A version never changes, but two servers can have versions of the same URI.
    key = hashlib.sha256(f"{tracking_uri} {uri}".encode()).hexdigest()
    folder = download_adapter(uri, cache_folder() / "registered" / key, tracking_uri=tracking_uri)
    return RegisteredChampion(int(version.version), uri, folder, read_policy(version).adapter)


def champion_version(
    registered_model: str, *, tracking_uri: str, policy: PolicyConfig
) -> ModelVersion | None:
    """Look up the champion without downloading it; see `current_champion`."""
    try:
        version = version_by_alias(connect(tracking_uri), registered_model, CHAMPION)
    except FAULTS as error:
        raise describe_error(
            error, f"look up the champion of {registered_model}", tracking_uri
        ) from error
    if version is None:
        return None
    uri = version_uri(version)
    theirs = read_policy(version)
    # Settings of versions have absolute paths, those of a run may be relative.
    if theirs.weights != with_absolute_paths(policy).weights:
        raise PromotionError(
            f"{uri}, the champion of {registered_model}, is an adapter for the base model "
            f"{theirs.weights.location}, not for {policy.weights.location}",
            repair="set promotion.registered_model to another name, or policy.weights as the "
            "champion has it",
        )
    return version
