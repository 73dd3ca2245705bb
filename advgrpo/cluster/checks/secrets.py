"""Checks of the Secrets with logins: all keys, in a pod and on a laptop."""

import os

from advgrpo.cluster.api import Api
from advgrpo.cluster.checks.check import Check, login_check, run_check
from advgrpo.cluster.credentials import MLFLOW_LOGINS, S3_LOGINS, Logins, describe
from advgrpo.cluster.resources import SECRETS
from advgrpo.cluster.settings import CLUSTER

_IDENTITIES = ("AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_FULL_URI")
"""Variables by which platforms give a service account an identity for S3."""


def check_s3_secret(api: Api, secret: str) -> Check:
    """Check the Secret with the keys of S3."""
    check = _check(api, secret, S3_LOGINS, f"create it with the keys {describe(S3_LOGINS)}")
    # A pod of the chart has every key of the Secret, so none means that the Secret has none.
    if check.state == "SKIP" and api.pod_namespace and os.environ.get(CLUSTER):
        check = login_check(check.name, (), S3_LOGINS, "this pod ")
    # With a workload identity there is no Secret and none is needed.
    if check.state == "FAIL" and any(os.environ.get(name) for name in _IDENTITIES):
        return Check(check.name, "SKIP", "the service account has an identity for S3")
    return check


def check_mlflow_secret(api: Api, secret: str) -> Check:
    """Check the Secret with the login of MLflow, which need not exist."""
    absent = "does not exist: MLflow is used without a login"
    return _check(api, secret, MLFLOW_LOGINS, absent=absent)


def _check(
    api: Api, secret: str, logins: Logins, repair: str = "", absent: str = "does not exist"
) -> Check:
    name = f"Secret {secret}"

    def query() -> Check:
        data = api.get(SECRETS, secret).get("data") or {}
        # A key without a value is as good as none.
        return login_check(name, [key for key in data if data[key]], logins, "")

    check = run_check(name, query, repair, absent=absent)
    here = [key for login in logins for key in login if os.environ.get(key)]
    # In a pod the Secret's keys are in the environment, which needs no permission to read.
    if check.state == "SKIP" and api.pod_namespace and here:
        return login_check(name, here, logins, "this pod ")
    return check
