"""Entry point of the command `advgrpo`."""

import os
import sys
from typing import Annotated, NoReturn

import typer

from advgrpo import __version__
from advgrpo.cli import (
    cluster,
    config,
    demo,
    doctor,
    generate,
    init,
    pipeline,
    plan,
    prompts,
    reference_images,
    registry,
    reproduce,
    scorers,
    status,
    submit,
    tasks,
    tracking,
)
from advgrpo.errors import ConfigError
from advgrpo.runtime.environment import quiet_libraries
from advgrpo.runtime.failures import run_as_process
from advgrpo.telemetry.logging import configure

_EXTRAS = {
    # `psutil` is part of `train`, too, which is much larger.
    **dict.fromkeys(("kfp", "kfp_server_api", "psutil"), "pipeline"),
    **dict.fromkeys(("kubeflow", "kubernetes", "prometheus_client"), "cluster"),
    **dict.fromkeys(
        (
            "deepspeed",
            "diffusers",
            "httpx2",
            "huggingface_hub",
            "jaxtyping",
            "jinja2",
            "markupsafe",
            "mlflow",
            "numpy",
            "pandas",
            "peft",
            "PIL",
            "safetensors",
            "torch",
            "transformers",
        ),
        "train",
    ),
    "pyarrow": "parquet",
    "requests": "demo",
}
"""Package -> the extra that installs it."""

_UTF8 = "PYTHONUTF8"

# Rich tracebacks show the values of locals, which may be secrets.
app = typer.Typer(
    help="Post-train a text-to-image flow model by adversarial reward.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.add_typer(config.app, name="config")
app.command()(init.init)
app.add_typer(prompts.app, name="prompts")
app.add_typer(reference_images.app, name="reference-images")
app.command()(tasks.pretrain_reward)
app.command()(tasks.train)
app.command()(tasks.evaluate)
app.command()(generate.generate)
app.command()(reproduce.reproduce)
app.command()(tasks.register)
app.command("demo")(demo.demo)
app.command("demo-ui")(demo.demo_ui)
app.add_typer(pipeline.app, name="pipeline")
app.add_typer(scorers.app, name="scorers")
app.command()(plan.plan)
app.command()(submit.submit)
app.command()(doctor.doctor)
app.command()(status.status)
app.add_typer(registry.app, name="registry")
app.add_typer(tracking.app, name="tracking")
app.add_typer(cluster.app, name="cluster")


# Without a command, for --version alone.
@app.callback(invoke_without_command=True)
def start(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """Configure warnings and logging for all commands."""
    if version:
        print(__version__)
        raise typer.Exit
    # Libraries read these variables when they are imported, which commands do later.
    quiet_libraries()
    configure()


def main() -> NoReturn:
    """Run the command line."""
    # In such a locale neither prompts nor paths can be read; child processes inherit the variable.
    if sys.getfilesystemencoding() == "ascii" and os.environ.get(_UTF8) != "1":
        os.environ[_UTF8] = "1"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606 - itself
    run_as_process(_run)


def _run() -> None:
    try:
        app()
    # The name may be that of a submodule. If any other module is missing, its traceback matters.
    except ModuleNotFoundError as error:
        extra = _EXTRAS.get((error.name or "").partition(".")[0])
        if extra is None:
            raise
        raise ConfigError(
            f"this command needs the package {error.name}, which is not installed",
            repair=f"pip install 'advgrpo[{extra}]'",
        ) from error


# The demo starts this module with its own Python, whatever `advgrpo` on the path is.
if __name__ == "__main__":
    main()
