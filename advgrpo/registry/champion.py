"""Who is champion: the registry's own record, the aliases that follow it, and a lock around both.

The record is a tag of the registered model, the list of its champions in order. It is written first
and the aliases after it, so that whatever breaks off in between is completed by the next look. An
alias that somebody moved by hand differs from the record, and is judged before it counts.
"""

import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from advgrpo.errors import PromotionError
from advgrpo.registry.versions import CHAMPION, MODEL_TAG, PREVIOUS
from advgrpo.tracking.connection import misses

CANDIDATE = "candidate"
HISTORY_TAG = "advgrpo.champions"
LOCK_TAG = "advgrpo.lock"

_KEPT = 100
"""Champions remembered; a tag holds a limited number of characters."""


@dataclass(frozen=True)
class ChampionState:
    """Who is champion of a registered model."""

    history: tuple[int, ...]
    """Champions by the record, in order; the last one is the lawful champion."""

    aliases: Mapping[str, int]
    """What the aliases say."""

    @property
    def lawful(self) -> int | None:
        """The champion by the record."""
        return self.history[-1] if self.history else None

    @property
    def named(self) -> int | None:
        """The champion by the alias."""
        return self.aliases.get(CHAMPION)

    @property
    def is_settled(self) -> bool:
        """Whether the aliases say what the record says."""
        wanted = _wanted(self.history)
        return all(self.aliases.get(alias) == wanted.get(alias) for alias in (CHAMPION, PREVIOUS))

    @property
    def is_moved_back(self) -> bool:
        """Whether somebody moved the alias to the champion before this one.

        In a promotion that broke off the alias is there, too, but `previous` is not yet.
        """
        before = self.history[-2:-1]
        return before == (self.named,) == (self.aliases.get(PREVIOUS),)


def standing(client: MlflowClient, name: str) -> ChampionState:
    """Look up who is champion.

    Raises:
        PromotionError: If there is no such registered model, or it holds no adapters.
    """
    try:
        model = client.get_registered_model(name)
    except MlflowException as error:
        if not misses(error):
            raise
        raise PromotionError(
            f"there is no registered model {name}",
            repair="check the name; `advgrpo registry list` shows all",
        ) from error
    if MODEL_TAG not in model.tags:
        raise PromotionError(
            f"the registered model {name} holds no adapters of advgrpo",
            repair="use a name that `advgrpo registry list` shows",
        )
    return ChampionState(
        tuple(int(one) for one in model.tags.get(HISTORY_TAG, "").split() if one.isdecimal()),
        {alias: int(version) for alias, version in model.aliases.items()},
    )


def crown(client: MlflowClient, name: str, history: tuple[int, ...]) -> None:
    """Make the last of a list of versions the champion, and the one before it `previous`.

    Only to be called with the lock held.

    Raises:
        PromotionError: If somebody moved the aliases meanwhile, who does not ask for the lock.
    """
    kept = history[-_KEPT:]
    client.set_registered_model_tag(name, HISTORY_TAG, " ".join(map(str, kept)))
    wanted = _wanted(kept)
    before = standing(client, name).aliases
    for alias in (CHAMPION, PREVIOUS):
        version = wanted.get(alias)
        if version is None and alias in before:
            client.delete_registered_model_alias(name, alias)
        elif version is not None and before.get(alias) != version:
            client.set_registered_model_alias(name, alias, str(version))
    if wanted and before.get(CANDIDATE) == wanted[CHAMPION]:
        client.delete_registered_model_alias(name, CANDIDATE)
    named = standing(client, name).named
    if named != wanted.get(CHAMPION):
        raise PromotionError(
            f"while {name} was being changed, somebody else moved its alias {CHAMPION} to version "
            f"{named}",
            repair="run `advgrpo registry reconcile`, which judges that",
        )


def _wanted(history: tuple[int, ...]) -> dict[str, int]:
    return dict(zip((CHAMPION, PREVIOUS), reversed(history), strict=False))


@contextmanager
def promotion_lock(
    client: MlflowClient, name: str, *, wait_seconds: float = 60.0, lease_seconds: float = 900.0
) -> Iterator[None]:
    """Let one process at a time change a model's champion.

    MLflow has no compare-and-set, but names of registered models are unique in its database: who
    creates the model `<name>-promotion-lock` holds the lock, and deletes it afterwards. What
    remains: a process that dies keeps the lock until its lease ends, and of several that then break
    it at the same moment two may go on; and MLflow's own pages ask nobody for it.

    Args:
        client: Of the MLflow server.
        name: The registered model.
        wait_seconds: Longest wait for another process.
        lease_seconds: Age from which a lock counts as left behind.

    Raises:
        PromotionError: If another process holds the lock for longer.
    """
    lock, token = f"{name}-promotion-lock", uuid.uuid4().hex
    deadline = time.monotonic() + wait_seconds
    while not _taken(client, lock, token, lease_seconds):
        if time.monotonic() > deadline:
            raise PromotionError(
                f"another process has been changing the champion of {name} for more than "
                f"{wait_seconds:.0f} s",
                repair=f"try again; if none runs any more, delete the registered model {lock}",
            )
        time.sleep(0.2)
    try:
        yield
    finally:
        if _holder(client, lock)[0] == token:
            client.delete_registered_model(lock)


def _taken(client: MlflowClient, lock: str, token: str, lease_seconds: float) -> bool:
    try:
        client.create_registered_model(lock, tags={LOCK_TAG: token})
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
        holder, since = _holder(client, lock)
        if holder and time.time() - since > lease_seconds:
            # Renamed first: of two that break the same lock, one finds nothing to rename.
            broken = f"{lock}-broken-{token}"
            try:
                client.rename_registered_model(lock, broken)
                client.delete_registered_model(broken)
            except MlflowException as gone:
                if not misses(gone):
                    raise
        # A request that was sent twice finds its own lock.
        return holder == token
    return True


def _holder(client: MlflowClient, lock: str) -> tuple[str, float]:
    """Give the token of who holds a lock, and since when; no token if nobody does."""
    try:
        model = client.get_registered_model(lock)
    except MlflowException as error:
        if not misses(error):
            raise
        return "", 0.0
    return model.tags.get(LOCK_TAG, ""), model.creation_timestamp / 1000
