"""Trained adapters as versions of a registered model."""

import shutil
import tempfile
import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import mlflow
from mlflow import MlflowClient
from mlflow.entities import LoggedModelOutput, Metric
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema

from advgrpo import __version__, storage
from advgrpo.config import SamplingConfig, Sd3PolicyConfig
from advgrpo.errors import TrackingError, WeightsError
from advgrpo.storage.local import disk_errors, replaced_folder
from advgrpo.tracking.connection import FAULTS, connect, explained

ADAPTER_FILES = (
    "adapter_model.safetensors",
    "adapter_config.json",
    "pytorch_lora_weights.safetensors",
)
"""What a registered adapter holds: peft's layout, and the one that plain diffusers loads."""

_TAG_PREFIX = "advgrpo."
_ADAPTER_TAG = "advgrpo.adapter.{}"
_LIBRARIES = ("torch", "diffusers", "transformers", "peft", "safetensors", "mlflow")
_ARTIFACT = "adapter"
_EXISTS = "RESOURCE_ALREADY_EXISTS"


@dataclass(frozen=True)
class RegisteredAdapter:
    """A version of a registered model."""

    name: str
    version: int
    uri: str
    """`models:/name/version`."""


def register_adapter(
    adapter_folder: Path,
    *,
    registered_model: str,
    alias: str,
    run_id: str,
    tracking_uri: str,
    policy: Sd3PolicyConfig,
    sampling: SamplingConfig,
    lineage: Mapping[str, str],
    measures: Mapping[str, float],
) -> RegisteredAdapter:
    """Make an adapter a new version of a registered model and point an alias at it.

    The version serves images through `mlflow.pyfunc`; base weights are named, not copied. The alias
    moves last. Registering the same adapter of the same run again only moves the alias.

    Args:
        adapter_folder: Holds `ADAPTER_FILES`.
        registered_model: Name of the registered model; created if there is none.
        alias: Alias to set on the version.
        run_id: MLflow run that the adapter comes from.
        tracking_uri: The MLflow server.
        policy: Base model and shape of the adapter.
        sampling: Gives the served model's default steps and guidance.
        lineage: What the adapter was made from, by name: digests, commits. Kept as tags.
        measures: What it was measured to be, by name.

    Raises:
        WeightsError: If a file of the adapter is missing.
        TrackingError: If MLflow is not available or refuses.
    """
    digests = _digests(adapter_folder)
    tags = {
        **{_TAG_PREFIX + name: value for name, value in {**_versions(), **lineage}.items()},
        **{_ADAPTER_TAG.format(name): digest for name, digest in digests.items()},
    }
    try:
        client = connect(tracking_uri)
        version = _version_of(client, registered_model, run_id, digests)
        if version is None:
            model_id = _log_model(
                client, adapter_folder, registered_model, run_id, policy, sampling, tags, measures
            )
            version = _create_version(client, registered_model, run_id, model_id, tags)
        client.set_registered_model_alias(registered_model, alias, str(version))
    except FAULTS as error:
        raise explained(
            error, f"register the adapter as {registered_model}", tracking_uri
        ) from error
    return RegisteredAdapter(registered_model, version, f"models:/{registered_model}/{version}")


def registered_adapter(uri: str, destination: Path, *, tracking_uri: str) -> Path:
    """Fetch the adapter of a registered version.

    Args:
        uri: `models:/name@alias` or `models:/name/version`.
        destination: Becomes the adapter's folder, whole or not at all.
        tracking_uri: The MLflow server.

    Returns:
        `destination`.

    Raises:
        TrackingError: If there is no such version, or its files are not those that were registered.
    """
    name, version, alias = _parsed(uri)
    try:
        client = connect(tracking_uri)
        found = (
            client.get_model_version_by_alias(name, alias)
            if alias
            else client.get_model_version(name, version)
        )
        with tempfile.TemporaryDirectory() as folder:
            fetched = mlflow.artifacts.download_artifacts(
                artifact_uri=f"models:/{name}/{found.version}/artifacts/{_ARTIFACT}",
                dst_path=folder,
                tracking_uri=tracking_uri,
                registry_uri=tracking_uri,
            )
            _check(Path(fetched), found.tags, uri)
            with replaced_folder(destination) as partial:
                for file in ADAPTER_FILES:
                    shutil.copyfile(Path(fetched) / file, partial / file)
    except FAULTS as error:
        raise explained(error, f"fetch {uri}", tracking_uri) from error
    return destination


def _log_model(
    client: MlflowClient,
    adapter_folder: Path,
    name: str,
    run_id: str,
    policy: Sd3PolicyConfig,
    sampling: SamplingConfig,
    tags: Mapping[str, str],
    measures: Mapping[str, float],
) -> str:
    experiment = client.get_run(run_id).info.experiment_id
    logged = client.create_logged_model(
        experiment, name=name, source_run_id=run_id, tags=dict(tags), model_type="adapter"
    )
    model_id = str(logged.model_id)
    try:
        with tempfile.TemporaryDirectory() as folder:
            # MLflow keeps the copy under its folder's own name.
            copy = Path(folder, _ARTIFACT)
            copy.mkdir()
            for file in ADAPTER_FILES:
                shutil.copyfile(adapter_folder / file, copy / file)
            _save_model(Path(folder, "model"), copy, policy, sampling, run_id, model_id)
            client.log_model_artifacts(model_id, str(Path(folder, "model")))
        client.log_outputs(run_id, [LoggedModelOutput(model_id, step=0)])
        now = int(time.time() * 1000)
        client.log_batch(
            run_id,
            metrics=[
                Metric(measure, value, now, 0, model_id=model_id, run_id=run_id)
                for measure, value in measures.items()
            ],
        )
    except BaseException:
        client.finalize_logged_model(model_id, "FAILED")
        raise
    client.finalize_logged_model(model_id, "READY")
    return model_id


def _save_model(
    path: Path,
    adapter_folder: Path,
    policy: Sd3PolicyConfig,
    sampling: SamplingConfig,
    run_id: str,
    model_id: str,
) -> None:
    signature = ModelSignature(
        inputs=Schema([ColSpec(DataType.string)]),
        outputs=Schema([ColSpec(DataType.string)]),
        params=ParamSchema(
            [
                ParamSpec("seed", DataType.long, 0),
                ParamSpec("denoising_steps", DataType.long, sampling.denoising_steps),
                ParamSpec("guidance_scale", DataType.double, sampling.guidance_scale),
            ]
        ),
    )
    # MLflow warns of type hints of its own classes when this part of it is loaded.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        mlflow.pyfunc.save_model(
            path,
            python_model=str(Path(__file__).with_name("served_model.py")),
            artifacts={_ARTIFACT: str(adapter_folder)},
            model_config={"policy": _with_absolute_paths(policy).model_dump(mode="json")},
            signature=signature,
            pip_requirements=[
                f"advgrpo[train]=={__version__}",
                # Without a local build's mark such as +cpu.
                *(f"{name}=={metadata.version(name).partition('+')[0]}" for name in _LIBRARIES),
            ],
            mlflow_model=Model(run_id=run_id, model_id=model_id, model_uuid=model_id),
        )


def _with_absolute_paths(policy: Sd3PolicyConfig) -> Sd3PolicyConfig:
    # Whatever serves the model runs in another folder.
    location = policy.weights.location
    if storage.scheme(location):
        return policy
    weights = policy.weights.model_copy(update={"location": str(Path(location).resolve())})
    return policy.model_copy(update={"weights": weights})


def _create_version(
    client: MlflowClient, name: str, run_id: str, model_id: str, tags: Mapping[str, str]
) -> int:
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != _EXISTS:
            raise
    version = client.create_model_version(
        name,
        f"models:/{model_id}",
        run_id=run_id,
        tags=dict(tags),
        model_id=model_id,
        await_creation_for=0,
    )
    return int(version.version)


def _version_of(
    client: MlflowClient, name: str, run_id: str, digests: Mapping[str, str]
) -> int | None:
    wanted = {_ADAPTER_TAG.format(file): digest for file, digest in digests.items()}
    for version in client.search_model_versions(f"name = '{name}' and run_id = '{run_id}'"):
        if wanted.items() <= version.tags.items():
            return int(version.version)
    return None


def _digests(folder: Path) -> dict[str, str]:
    missing = [file for file in ADAPTER_FILES if not (folder / file).is_file()]
    if missing:
        raise WeightsError(
            f"the adapter in {folder} has no {', '.join(missing)}",
            repair="give the folder that training wrote",
        )
    with disk_errors("read", folder):
        return {file: storage.file_sha256(folder / file) for file in ADAPTER_FILES}


def _check(folder: Path, tags: Mapping[str, str], uri: str) -> None:
    for file in ADAPTER_FILES:
        registered = tags.get(_ADAPTER_TAG.format(file))
        path = folder / file
        if registered is None or not path.is_file() or storage.file_sha256(path) != registered:
            raise TrackingError(
                f"{file} of {uri} is not the file that was registered",
                repair="register the adapter again, or use another version",
            )


def _parsed(uri: str) -> tuple[str, str, str]:
    path = uri.removeprefix("models:/")
    name, at, alias = path.partition("@")
    if not at:
        name, _, version = path.partition("/")
        if version.isdecimal() and name and uri.startswith("models:/"):
            return name, version, ""
    elif name and alias and uri.startswith("models:/"):
        return name, "", alias
    raise TrackingError(
        f"{uri!r} names no registered adapter", repair="write models:/name@alias or models:/name/3"
    )


def _versions() -> dict[str, str]:
    return {
        "version": __version__,
        **{f"version.{library}": metadata.version(library) for library in _LIBRARIES},
    }
