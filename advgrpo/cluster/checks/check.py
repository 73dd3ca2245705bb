"""Results of readiness checks, and how a request's error becomes one."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from advgrpo.cluster.api_errors import NotFoundError, UnknownResourceError
from advgrpo.cluster.credentials import Logins, describe, missing_keys
from advgrpo.errors import ClusterError, ClusterUnavailableError


@dataclass(frozen=True)
class Check:
    """Result of a check."""

    name: str
    state: Literal["OK", "FAIL", "SKIP"]
    found: str
    repair: str = ""


def run_check(
    name: str, query: Callable[[], Check], repair: str = "", *, absent: str = "does not exist"
) -> Check:
    """Run a check, and turn what goes wrong into its result.

    Args:
        name: Name of the check.
        query: Sends the requests.
        repair: What to do if the object does not exist; empty if it need not.
        absent: What to report if the object does not exist.
    """
    try:
        return query()
    except (NotFoundError, UnknownResourceError):
        return Check(name, "FAIL" if repair else "SKIP", absent, repair)
    except ClusterUnavailableError as error:
        # Not SKIP: without an answer it is unknown whether the cluster is there at all.
        return Check(name, "FAIL", error.message, error.repair)
    except ClusterError as error:
        # A refused read reveals nothing about the object: the account may have fewer permissions
        # than the ones that jobs use.
        return Check(name, "SKIP", f"may not be read: {error.message}")


def login_check(name: str, keys: Iterable[str], logins: Logins, owner: str) -> Check:
    """Check keys of a Secret or an environment for a complete login.

    Args:
        name: Name of the check.
        keys: Keys that are present.
        logins: Alternatives of which one must be complete.
        owner: Prefix that names what has the keys; empty for a Secret.
    """
    present = ", ".join(sorted(keys)) or "no keys"
    missing = missing_keys(keys, logins)
    if not missing:
        return Check(name, "OK", f"{owner}has {present}")
    repair = f"add to the Secret the keys {describe(logins)}"
    return Check(name, "FAIL", f"{owner}lacks {', '.join(missing)}; it has {present}", repair)
