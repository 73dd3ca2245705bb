"""Entry point of the command `advgrpo`."""

import logging
import os
import sys
from typing import Annotated, NoReturn

import typer

from advgrpo import __version__
from advgrpo.cli import demo, generate, pipeline, reference_images, settings, steps, tracking
from advgrpo.tasks.failures import run_as_process

# A traceback of ours is for the log of a fault, without colours and without the values of locals,
# which may be secrets.
app = typer.Typer(
    help="Post-train a text-to-image flow model by adversarial reward.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(settings.app, name="config")
app.add_typer(reference_images.app, name="reference-images")
app.command()(steps.pretrain_reward)
app.command()(steps.train)
app.command()(steps.evaluate)
app.command()(generate.generate)
app.command()(steps.register)
app.command("demo")(demo.demo)
app.command("demo-ui")(demo.demo_ui)
app.add_typer(pipeline.app, name="pipeline")
app.add_typer(tracking.app, name="tracking")


@app.callback(invoke_without_command=True)
def start(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """Prepare what all commands need."""
    if version:
        print(__version__)
        raise typer.Exit
    # What libraries tell of themselves is not what a user asked for.
    os.environ.setdefault("TQDM_DISABLE", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr, force=True)
    logging.getLogger("advgrpo").setLevel(logging.INFO)


def main() -> NoReturn:
    """Run the command line."""
    run_as_process(app)


if __name__ == "__main__":
    main()
