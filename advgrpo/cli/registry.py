"""`advgrpo registry`: list, promote, verify and export registered adapters."""

import getpass
import os
import signal
import time
from enum import Enum
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from advgrpo.cli.options import local_path
from advgrpo.telemetry.logging import report

app = typer.Typer(
    help="List, promote, verify and export registered adapters.", no_args_is_help=True
)

Name = Annotated[str, typer.Argument(help="Registered model.")]
Version = Annotated[str, typer.Argument(help="Number or alias of the version.")]
By = Annotated[str, typer.Option("--by", help="Name to record. Default: the user's.")]
Every = Annotated[
    float, typer.Option("--every", min=0, help="Seconds between two passes over all models.")
]


class Layout(str, Enum):  # noqa: UP042 - typer shows the values of this kind
    """Layout of an exported adapter."""

    diffusers = "diffusers"
    comfyui = "comfyui"
    huggingface = "huggingface"


@app.command("list")
def list_(
    name: Annotated[str, typer.Argument(help="Registered model. Default: all.")] = "",
) -> None:
    """List versions with their aliases, gates and last decision."""
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
    """Print the model card of a version: data, metrics, gates, limitations, lineage."""
    from advgrpo.registry.listing import show_version

    print(show_version(_tracking_uri(), name, version))


@app.command()
def compare(name: Name, first: Version, second: Version = "champion") -> None:
    """Print the metrics of two versions side by side."""
    from advgrpo.registry.listing import compare_versions

    print(compare_versions(_tracking_uri(), name, first, second))


@app.command()
def promote(
    name: Name,
    version: Version = "candidate",
    override: Annotated[
        bool, typer.Option("--override", help="Promote despite failed gates; needs --reason.")
    ] = False,
    reason: Annotated[str, typer.Option("--reason", help="Reason to record.")] = "",
    by: By = "",
) -> None:
    """Make a version the champion if its gates passed against the current champion."""
    from advgrpo.errors import ConfigError
    from advgrpo.registry.promotion import promote as task
    from advgrpo.registry.promotion_hook import promotion_hook

    # White space does not count as a reason.
    if override != bool(reason.strip()):
        raise ConfigError(
            "--override needs --reason" if override else "--reason needs --override",
            repair='use both, as in --override --reason "REASON", or neither',
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
    reason: Annotated[str, typer.Option("--reason", help="Reason to record.")],
    by: By = "",
) -> None:
    """Make the previous champion the champion again."""
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
        int, typer.Option("--prompts", min=0, help="Number of prompts to generate and score again.")
    ] = 4,
) -> None:
    """Check the hashes of a version's files, and recompute a sample of its evaluation."""
    from advgrpo.registry.verification import verify as task

    found = task(name, version, tracking_uri=_tracking_uri(), prompts=prompts)
    print(f"{found.uri}: all files match their registered hashes")
    # With --prompts 0 only the hashes are checked.
    if found.prompts:
        print(
            f"{found.prompts} prompts generated again: images differ by at most "
            f"{found.largest_difference_levels:.3f} of 256 levels, alignment by at most "
            f"{found.largest_alignment_difference:.4g}"
        )


@app.command()
def export(
    name: Name,
    output: Annotated[
        Path, typer.Option("--output", help="New folder for the files.", callback=local_path)
    ],
    version: Version = "champion",
    layout: Annotated[
        Layout, typer.Option("--layout", help="Program that reads it.")
    ] = Layout.diffusers,
    push: Annotated[
        str, typer.Option("--push", help="Upload to this repository (OWNER/NAME) of the hub.")
    ] = "",
) -> None:
    """Export the adapter of a version in the layout of another program."""
    from advgrpo.errors import ConfigError
    from advgrpo.registry.export import export as task

    if push and layout is not Layout.huggingface:
        raise ConfigError(
            f"--push does not fit --layout {layout.value}", repair="add --layout huggingface"
        )
    for file in task(
        name, version, tracking_uri=_tracking_uri(), layout=layout.value, output=output
    ):
        print(output / file)
    if push:
        from advgrpo.storage.hub import push_folder

        print(push_folder(output, push, message=f"{name}, version {version}"))


@app.command()
def reconcile(
    name: Annotated[str, typer.Argument(help="Registered model. Default: all.")] = "",
    every: Every = 0,
) -> None:
    """Check aliases that were changed in MLflow directly, and revert invalid promotions."""
    from advgrpo.errors import AdvGrpoError
    from advgrpo.registry.promotion_hook import promotion_hook
    from advgrpo.registry.reconciliation import reconcile as task

    # Outside the loop, so that wrong settings end the process instead of being retried.
    announce, tracking_uri = promotion_hook(), _tracking_uri()
    while True:
        try:
            for decided in task(tracking_uri, name=name, announce=announce):
                report(decided, "decided")
        # A loop must survive an outage of MLflow.
        except AdvGrpoError as error:
            # A single pass has no next one, so its caller must see the error.
            if not every:
                raise
            report(str(error), "reconciliation_failed")
        if not every:
            return
        time.sleep(every)


@app.command()
def serve(
    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", help="Port; 0 uses a free one.")] = 8090,
    every: Every = 300,
) -> None:
    """Receive MLflow's webhooks and reconcile; also reconcile periodically."""
    from advgrpo.registry.promotion_hook import promotion_hook
    from advgrpo.registry.reconciler import Reconciler
    from advgrpo.registry.webhook import PATH, SECRET_VARIABLE, receiver
    from advgrpo.telemetry.prometheus import WEBHOOK, serve_metrics

    # At least a second: without a pause, passes would follow each other and load MLflow.
    reconciler = Reconciler(
        _tracking_uri(), every_seconds=max(every, 1.0), announce=promotion_hook()
    )

    # Only queues the end: an exception here could interrupt a promotion between two requests.
    def stop(_signal: int, _frame: FrameType | None) -> None:
        reconciler.stop()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    # From the environment: every user can read command lines.
    secret = os.environ.get(SECRET_VARIABLE, "")
    starting = receiver(host, port, secret=secret, notify=reconciler.notify)
    # The port is open before the first pass, which may take long; notifications queue meanwhile.
    with serve_metrics(WEBHOOK), starting as server:
        report(f"receiving webhooks at http://{host}:{server.server_address[1]}{PATH}", "serving")
        # Returns after SIGTERM, once the change in progress is complete.
        reconciler.run()


@app.command()
def subscribe(
    url: Annotated[
        str, typer.Argument(help="URL by which MLflow reaches `advgrpo registry serve`.")
    ],
) -> None:
    """Register a webhook in MLflow that notifies URL of changes in its registry."""
    from advgrpo.registry.webhook import SECRET_VARIABLE
    from advgrpo.registry.webhook import subscribe as task

    task(_tracking_uri(), url, secret=os.environ.get(SECRET_VARIABLE, ""))
    print(f"MLflow notifies {url}")


def _tracking_uri() -> str:
    from advgrpo.tracking.address import require_tracking_uri

    return require_tracking_uri("the registry is part of an MLflow server")


def _user() -> str:
    try:
        # Taken from LOGNAME or USER first: a record, not an authentication.
        return getpass.getuser()
    except (KeyError, OSError):
        # A container's user may have no name.
        return f"user {os.getuid()}"
