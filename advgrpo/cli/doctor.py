"""`advgrpo doctor`: check what a run on a cluster needs."""

import json
from typing import TYPE_CHECKING, Annotated

import typer

from advgrpo.cli.kfp_access import WORKSPACE, with_kfp_access

# Imports `kfp`, whose extra is not installed everywhere.
if TYPE_CHECKING:
    from advgrpo.kfp_client import Access


@with_kfp_access
def doctor(
    access: "Access",
    workspace: Annotated[
        str,
        typer.Option(
            "--workspace",
            envvar=WORKSPACE,
            help="s3:// location for results, to check access to it.",
        ),
    ] = "",
    service_account: Annotated[
        str,
        typer.Option(
            "--service-account",
            help="Check the permissions of this service account instead of your own.",
        ),
    ] = "",
    config_map: Annotated[
        str,
        typer.Option("--config-map", envvar="ADVGRPO_CONFIG_MAP", help="The chart's ConfigMap."),
    ] = "advgrpo",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check everything that a run on a cluster needs, and print a repair for each failure.

    Works in a pod of the namespace and on a laptop; checks that need the other place are skipped.
    Exits with 1 if a check fails.
    """
    from dataclasses import asdict

    from advgrpo.kfp_client.readiness import diagnose

    checks = []
    for check in diagnose(
        access=access, workspace=workspace, service_account=service_account, config_map=config_map
    ):
        checks.append(check)
        if not as_json:
            # Checks take seconds: print each as it ends.
            print(f"{check.state:4}  {check.name}: {check.found}", flush=True)
            if check.repair:
                print(f"      repair: {check.repair}", flush=True)
    if as_json:
        print(json.dumps([asdict(check) for check in checks], indent=1))
    if any(check.state == "FAIL" for check in checks):
        # Not an `AdvGrpoError`: the failed checks and their repairs are printed above.
        raise typer.Exit(1)
