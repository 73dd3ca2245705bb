"""`advgrpo doctor`: look at what a run on a cluster needs."""

import json
from typing import Annotated

import typer

from advgrpo.cli.kfp_access import kfp_access
from advgrpo.cli.options import CaFile, Cookies, Endpoint, Token, TokenFile


def doctor(
    namespace: Annotated[
        str,
        typer.Option(
            "--namespace", help="Where jobs run; else the pod's, or that of the kubeconfig."
        ),
    ] = "",
    workspace: Annotated[
        str, typer.Option("--workspace", help="s3:// location that runs are to write to.")
    ] = "",
    service_account: Annotated[
        str,
        typer.Option(
            "--service-account",
            help="Look at the rights of this account of the namespace, not at your own.",
        ),
    ] = "",
    config_map: Annotated[
        str,
        typer.Option("--config-map", envvar="ADVGRPO_CONFIG_MAP", help="The chart's ConfigMap."),
    ] = "advgrpo",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    endpoint: Endpoint = "",
    token: Token = "",
    token_file: TokenFile = None,
    cookies: Cookies = "",
    ca: CaFile = None,
) -> None:
    """Look at all that a run on a cluster needs, and say how to repair what is wrong.

    Works in a pod of the namespace and on a laptop; what cannot be seen from here is skipped.
    """
    from dataclasses import asdict

    from advgrpo.kfp_client.readiness import diagnose

    access = kfp_access(endpoint, namespace, token, token_file, cookies, ca)
    checks = []
    for check in diagnose(
        access=access, workspace=workspace, service_account=service_account, config_map=config_map
    ):
        checks.append(check)
        if not as_json:
            print(f"{check.state:4}  {check.name}: {check.found}", flush=True)
            if check.repair:
                print(f"      repair: {check.repair}", flush=True)
    if as_json:
        print(json.dumps([asdict(check) for check in checks], indent=1))
    if any(check.state == "FAIL" for check in checks):
        raise typer.Exit(1)
