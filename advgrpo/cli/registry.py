"""`advgrpo registry`: which adapter is in use, and whether it may be."""

import getpass
import os
import signal
import time
from enum import Enum
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from advgrpo.telemetry.logging import report

app = typer.Typer(help="Which adapter is in use, and whether it may be.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="The registered model.")]
Version = Annotated[str, typer.Argument(help="Number or alias of the version.")]
By = Annotated[str, typer.Option("--by", help="Who asks, for the record; else the user's name.")]
Every = Annotated[
    float, typer.Option("--every", min=0, help="Seconds between two looks at all models.")
]


class Layout(str, Enum):  # noqa: UP042 - typer shows the values of this kind
    """Whose layout."""

    diffusers = "diffusers"
    comfyui = "comfyui"
    huggingface = "huggingface"


@app.command("list")
def list_(
    name: Annotated[str, typer.Argument(help="One registered model; else all.")] = "",
) -> None:
    """List versions with their aliases, gates and what was decided last."""
    from advgrpo.registry.listing import list_versions

    listed = list_versions(_tracking_uri(), name)
    for one in listed:
        aliases = f" ({', '.join(one.aliases)})" if one.aliases else ""
        print(f"{one.name} version {one.version}{aliases}: gates {one.gates}")
        if one.decision:
            print(f"    {one.decision}")
    if not listed:
        print("no adapter is registered")


@app.command()
def show(name: Name, version: Version = "champion") -> None:
    """Print a version's model card: data, measures, gates, limits, lineage."""
    from advgrpo.registry.listing import show_version

    print(show_version(_tracking_uri(), name, version))


@app.command()
def compare(name: Name, first: Version, second: Version = "champion") -> None:
    """Set the measures of two versions side by side."""
    from advgrpo.registry.listing import compare_versions

    print(compare_versions(_tracking_uri(), name, first, second))


@app.command()
def promote(
    name: Name,
    version: Version = "candidate",
    override: Annotated[
        bool, typer.Option("--override", help="Promote although gates failed; needs --reason.")
    ] = False,
    reason: Annotated[str, typer.Option("--reason", help="Why; it is recorded.")] = "",
    by: By = "",
) -> None:
    """Make a version the champion, if its gates passed against the one that is champion now."""
    from advgrpo.errors import ConfigError
    from advgrpo.registry.promotion import promote as task
    from advgrpo.registry.promotion_hook import promotion_hook

    if override != bool(reason.strip()):
        raise ConfigError(
            "--override and --reason go together" if override else "--reason is for --override",
            repair='write --override --reason "WHY", or neither',
        )
    promotion = task(
        name,
        version,
        tracking_uri=_tracking_uri(),
        by=by or _user(),
        override_reason=reason.strip(),
        announce=promotion_hook(),
    )
    print(f"{promotion.uri} is champion")


@app.command()
def rollback(
    name: Name,
    reason: Annotated[str, typer.Option("--reason", help="Why; it is recorded.")],
    by: By = "",
) -> None:
    """Make the champion before this one champion again."""
    from advgrpo.registry.promotion import rollback as task
    from advgrpo.registry.promotion_hook import promotion_hook

    promotion = task(
        name,
        tracking_uri=_tracking_uri(),
        by=by or _user(),
        reason=reason,
        announce=promotion_hook(),
    )
    print(f"{promotion.uri} is champion again")


@app.command()
def verify(
    name: Name,
    version: Version = "champion",
    prompts: Annotated[
        int, typer.Option("--prompts", min=0, help="Prompts to draw and score again.")
    ] = 4,
) -> None:
    """Hash every file of a version, and draw and score a sample of its evaluation again."""
    from advgrpo.registry.verification import verify as task

    found = task(name, version, tracking_uri=_tracking_uri(), prompts=prompts)
    print(f"{found.uri}: every file is the one that was registered")
    if found.prompts:
        print(
            f"{found.prompts} prompts drawn again: images differ by at most "
            f"{found.largest_difference_levels:.3f} of 256 levels, alignment by at most "
            f"{found.largest_alignment_difference:.4g}"
        )


@app.command()
def export(
    name: Name,
    output: Annotated[Path, typer.Option("--output", help="New folder to write.")],
    version: Version = "champion",
    layout: Annotated[Layout, typer.Option("--layout")] = Layout.diffusers,
) -> None:
    """Write a version's adapter in the layout that another program reads."""
    from advgrpo.registry.export import export as task

    for file in task(
        name, version, tracking_uri=_tracking_uri(), layout=layout.value, output=output
    ):
        print(output / file)


@app.command()
def reconcile(
    name: Annotated[str, typer.Argument(help="One registered model; else all.")] = "",
    every: Every = 0,
) -> None:
    """Judge what was changed in MLflow's own pages, and set right what is not lawful."""
    from advgrpo.errors import AdvGrpoError
    from advgrpo.registry.promotion_hook import promotion_hook
    from advgrpo.registry.reconciliation import reconcile as task

    announce, tracking_uri = promotion_hook(), _tracking_uri()
    while True:
        try:
            for decided in task(tracking_uri, name=name, announce=announce):
                report(decided, "decided")
        except AdvGrpoError as error:
            if not every:
                raise
            report(str(error), "reconciliation_failed")
        if not every:
            return
        time.sleep(every)


@app.command()
def serve(
    host: Annotated[str, typer.Option("--host", help="Address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", help="0 takes any that is free.")] = 8090,
    every: Every = 300,
) -> None:
    """Take MLflow's webhooks, and look at all models from time to time as well."""
    from advgrpo.registry.promotion_hook import promotion_hook
    from advgrpo.registry.reconciler import Reconciler
    from advgrpo.registry.webhook import PATH, SECRET_VARIABLE, receiver
    from advgrpo.telemetry.prometheus import WEBHOOK, exposed

    reconciler = Reconciler(
        _tracking_uri(), every_seconds=max(every, 1.0), announce=promotion_hook()
    )

    def stop(_signal: int, _frame: FrameType | None) -> None:
        reconciler.stop()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    secret = os.environ.get(SECRET_VARIABLE, "")
    taking = receiver(host, port, secret=secret, notify=reconciler.notify)
    with exposed(WEBHOOK), taking as server:
        report(f"taking messages at http://{host}:{server.server_address[1]}{PATH}", "serving")
        # A change that has begun comes to its end.
        reconciler.run()


@app.command()
def subscribe(
    url: Annotated[str, typer.Argument(help="Where MLflow reaches `advgrpo registry serve`.")],
) -> None:
    """Have MLflow tell the receiver at URL of what is changed in its registry."""
    from advgrpo.registry.webhook import SECRET_VARIABLE
    from advgrpo.registry.webhook import subscribe as task

    task(_tracking_uri(), url, secret=os.environ.get(SECRET_VARIABLE, ""))
    print(f"MLflow tells {url}")


def _tracking_uri() -> str:
    from advgrpo.tracking.address import require_tracking_uri

    return require_tracking_uri("the registry is part of an MLflow server")


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        # A container's user may have no name.
        return f"user {os.getuid()}"
