"""Access to Kubeflow Pipelines, from the options of a command."""

import functools
import inspect
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from advgrpo.cli.options import local_path
from advgrpo.errors import ConfigError

if TYPE_CHECKING:
    from advgrpo.kfp_client import Access, PipelineDocument

# The chart sets these variables for its own upload; on a laptop they are set by hand.
_OBJECT_VARIABLES = {
    "advgrpo": "ADVGRPO_CONFIG_MAP",
    "advgrpo-s3": "ADVGRPO_S3_SECRET",
    "advgrpo-mlflow": "ADVGRPO_MLFLOW_SECRET",
}
"""ConfigMap or Secret of the compiled pipeline -> variable with the installation's name for it."""


WORKSPACE = "ADVGRPO_WORKSPACE"
"""Variable of the workspace that is the default of the pipeline's parameter."""

_USER = "ADVGRPO_RUN_AS_USER"
"""Variable of the user id of the tasks' pods."""

_PULL_SECRETS = "ADVGRPO_PULL_SECRETS"
"""Variable with the names of the tasks' pull secrets, separated by blanks."""


# Not a command: `with_kfp_access` copies the options from this signature.
def _read_access(
    endpoint: Annotated[
        str,
        typer.Option(
            "--endpoint",
            help="Address of Kubeflow Pipelines. Default: KF_PIPELINES_ENDPOINT.",
            show_default=False,
        ),
    ] = "",
    namespace: Annotated[
        str,
        typer.Option(
            "--namespace", help="Namespace of your runs and jobs. Default in a pod: the pod's."
        ),
    ] = "",
    token: Annotated[
        str,
        typer.Option(
            "--token",
            # The name of this option in `kfp`.
            "--existing-token",
            envvar="ADVGRPO_KFP_TOKEN",
            help="Bearer token. Prefer the variable: every user can read command lines.",
        ),
    ] = "",
    token_file: Annotated[
        Path | None,
        typer.Option(
            "--token-file",
            help="File with a bearer token. Default: KF_PIPELINES_SA_TOKEN_PATH.",
            callback=local_path,
        ),
    ] = None,
    cookies: Annotated[
        str,
        typer.Option(
            "--cookies",
            envvar="ADVGRPO_KFP_COOKIES",
            help="Cookies of a logged-in browser, for instance authservice_session=...",
        ),
    ] = "",
    ca: Annotated[
        Path | None,
        typer.Option(
            "--ca", help="PEM file with the certificates of the server's CA.", callback=local_path
        ),
    ] = None,
) -> "Access":
    from advgrpo.kfp_client import Access

    return Access(
        endpoint=endpoint,
        namespace=namespace,
        token=token,
        token_file=token_file,
        cookies=cookies,
        ca_file=ca,
    )


def with_kfp_access(command: Callable[..., None]) -> Callable[..., None]:
    """Replace a command's parameter `access: Access` by the options that describe it."""
    options = inspect.signature(_read_access).parameters
    # A command's own options come first in its help.
    own = dict(inspect.signature(command).parameters)
    # Its annotation is a string that Typer could not resolve.
    del own["access"]
    parameters = [*own.values(), *options.values()]

    @functools.wraps(command)
    def run(**values: Any) -> None:  # noqa: ANN401 - the options of any command
        access = _read_access(**{name: values[name] for name in options})
        command(access=access, **{name: values[name] for name in own})

    # Typer derives a command's options from its signature and annotations.
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    # `wraps` copied the annotation of `access`, which Typer cannot convert.
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def pipeline_document(
    pipeline: Path | None, *, launcher_image: str = "", trainer_image: str = ""
) -> "PipelineDocument":
    """Read the compiled pipeline, with the images and objects of this installation."""
    from advgrpo.kfp_client import PipelineDocument
    from advgrpo.kfp_client.compiled import PIPELINE
    from advgrpo.runtime.pipeline_tasks import JOB_TASKS

    document = PipelineDocument.read(pipeline or PIPELINE)
    # An empty name keeps that of the compiled pipeline.
    names = {name: os.environ.get(variable, "") for name, variable in _OBJECT_VARIABLES.items()}
    # A task that launches a job serves metrics while the job runs.
    # The other tasks end too soon to be scraped.
    launchers = [task.name for task in JOB_TASKS]
    document = document.with_objects(names).with_annotations(_annotations(), tasks=launchers)
    if workspace := os.environ.get(WORKSPACE):
        document = document.with_workspace(workspace)
    pull_secrets = os.environ.get(_PULL_SECRETS, "").split()
    document = document.with_user(_user()).with_pull_secrets(pull_secrets)
    return document.with_images(launcher=launcher_image, trainer=trainer_image)


def _user() -> int | None:
    """Return the user of the tasks' pods; None for the images' or the platform's."""
    text = os.environ.get(_USER, "")
    if text and not text.isdecimal():
        raise ConfigError(
            f"{_USER}={text}: is not a user id", repair="set it to a number, or leave it unset"
        )
    return int(text) if text else None


def _annotations() -> dict[str, str]:
    """Return the annotations by which Prometheus finds pods that serve metrics."""
    # The chart sets it if metrics are enabled.
    port = os.environ.get("ADVGRPO_METRICS_PORT")
    return {"prometheus.io/scrape": "true", "prometheus.io/port": port} if port else {}
