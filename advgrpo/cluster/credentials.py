"""Logins to S3 and MLflow: the keys of their Secrets, which become environment variables."""

from collections.abc import Iterable
from typing import Final

from advgrpo.storage.credentials import S3_REQUIRED_KEYS

S3_LOGINS: Final = (S3_REQUIRED_KEYS,)
"""Keys that are enough to use S3, one tuple per alternative."""

MLFLOW_LOGINS: Final = (
    ("MLFLOW_TRACKING_TOKEN",),
    ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"),
)
"""Keys that are enough to log in to MLflow, one tuple per alternative."""

MLFLOW_KEYS: Final = tuple(sorted(key for login in MLFLOW_LOGINS for key in login))

Logins = tuple[tuple[str, ...], ...]


def missing_keys(present: Iterable[str], logins: Logins) -> tuple[str, ...]:
    """Return the keys that the most complete login still lacks; empty if one is complete.

    Args:
        present: Keys that a Secret or an environment has.
        logins: The alternatives: `S3_LOGINS` or `MLFLOW_LOGINS`.
    """
    keys = set(present)
    lacking = [tuple(key for key in login if key not in keys) for login in logins]
    started = [keys_left for login, keys_left in zip(logins, lacking, strict=True)
               if len(keys_left) < len(login)]  # fmt: skip
    # A user without a password lacks the password, although a token would be just one key, too.
    return min(started or lacking, key=len)


def describe(logins: Logins) -> str:
    """Return the alternatives as a phrase, for instance `A, or B and C`."""
    return ", or ".join(" and ".join(login) for login in logins)
