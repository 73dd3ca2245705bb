"""Versions of registered adapters: lookup, download, and checks against the registered hashes."""

import json
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import mlflow.artifacts
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from pydantic import TypeAdapter, ValidationError

from advgrpo.config.policy import AnyPolicyConfig, PolicyConfig
from advgrpo.errors import TrackingError
from advgrpo.records import PEFT_WEIGHTS
from advgrpo.storage.local import atomic_folder, file_sha256
from advgrpo.storage.locations import scheme
from advgrpo.tracking.artifacts import artifact_errors
from advgrpo.tracking.connection import FAULTS, connect, describe_error, is_missing

DIFFUSERS_FILE = "pytorch_lora_weights.safetensors"
ADAPTER_FILES = (PEFT_WEIGHTS, "adapter_config.json", DIFFUSERS_FILE)
"""Files of a registered adapter: peft's layout, and the one that plain diffusers loads."""

ADAPTER_FOLDER = "artifacts/adapter"
"""Folder of the adapter among a version's files."""

FILES_LIST = "files.json"
"""File with the SHA-256 of every other file of a version."""

TAG_PREFIX = "advgrpo."
FILES_TAG = "advgrpo.files"
"""Tag with the SHA-256 of `FILES_LIST`."""

ADAPTER_TAG = "advgrpo.adapter.{}"
POLICY_TAG = "advgrpo.policy"
MODEL_TAG = "advgrpo.model"
"""Tag of the registered models that advgrpo manages; it never changes others."""

CHAMPION = "champion"
"""Alias of the version that is in use."""

PREVIOUS = "previous"
"""Alias of the champion before the present one."""


@dataclass(frozen=True)
class RegisteredAdapter:
    """A version of a registered model."""

    name: str
    version: int
    uri: str
    """`models:/name/version`."""


def download_adapter(uri: str, destination: Path, *, tracking_uri: str) -> Path:
    """Download the adapter of a registered version.

    Args:
        uri: `models:/name@alias` or `models:/name/version`.
        destination: Folder that is created atomically.
        tracking_uri: The MLflow server.

    Returns:
        `destination`.

    Raises:
        TrackingError: If the version does not exist, or a file differs from the registered one.
    """
    name, which = parse_uri(uri)
    try:
        client = connect(tracking_uri)
        version = find_version(client, name, which)
        # Not all files: images of the sample can be large.
        with _download(version, tracking_uri, ADAPTER_FOLDER) as folder:
            for file in ADAPTER_FILES:
                # By its own tags, because the list of all files is not downloaded.
                _check(folder / file, registered_sha256(version, file), uri)
            # After all checks, so that a damaged adapter never reaches the destination.
            with atomic_folder(destination) as partial:
                for file in ADAPTER_FILES:
                    shutil.copyfile(folder / file, partial / file)
    except FAULTS as error:
        raise describe_error(error, f"download {uri}", tracking_uri) from error
    return destination


@contextmanager
def download_version(version: ModelVersion, tracking_uri: str) -> Iterator[Path]:
    """Yield a temporary folder with all files of a version, each checked.

    Raises:
        TrackingError: If a file is missing or differs from the registered one.
    """
    uri = version_uri(version)
    with _download(version, tracking_uri) as folder:
        # The tag verifies the list, and the list verifies the files.
        _check(folder / FILES_LIST, version.tags.get(FILES_TAG), uri)
        listed: dict[str, str] = json.loads((folder / FILES_LIST).read_text(encoding="utf-8"))
        for name, digest in listed.items():
            _check(folder / name, digest, uri)
        yield folder


@contextmanager
def open_version(
    name: str, which: str, *, tracking_uri: str, action: str
) -> Iterator[tuple[ModelVersion, Path]]:
    """Find a version and yield it with a temporary folder of its files, each checked.

    Args:
        name: The registered model.
        which: Number or alias of the version.
        tracking_uri: The MLflow server.
        action: The purpose, for errors, as in "cannot {action} champion of faces".

    Raises:
        TrackingError: If the version does not exist, a file changed, or MLflow is not available.
    """
    try:
        version = find_version(connect(tracking_uri), name, which)
        with download_version(version, tracking_uri) as folder:
            yield version, folder
    except FAULTS as error:
        raise describe_error(error, f"{action} {which} of {name}", tracking_uri) from error


def registered_sha256(version: ModelVersion, file: str) -> str | None:
    """Return the SHA-256 of one of `ADAPTER_FILES` as it was registered; None without a tag."""
    return version.tags.get(ADAPTER_TAG.format(file))


def version_by_alias(client: MlflowClient, name: str, alias: str) -> ModelVersion | None:
    """Return the version of an alias, or None."""
    try:
        return client.get_model_version_by_alias(name, alias)
    except MlflowException as error:
        # MLflow answers INVALID_PARAMETER_VALUE for an alias that does not exist.
        if is_missing(error) or error.error_code == "INVALID_PARAMETER_VALUE":
            return None
        raise


def read_policy(version: ModelVersion) -> PolicyConfig:
    """Read the base model and the adapter's shape from a version's tags.

    Raises:
        TrackingError: If the tag is missing or damaged.
    """
    try:
        return TypeAdapter(AnyPolicyConfig).validate_json(version.tags.get(POLICY_TAG, ""))
    except ValidationError as error:
        raise TrackingError(
            f"{version_uri(version)}: its tag {POLICY_TAG}, with the base model, is missing or "
            "damaged",
            repair="register the adapter again with `advgrpo register`",
        ) from error


def find_version(client: MlflowClient, name: str, which: str) -> ModelVersion:
    """Return a version by its number or an alias.

    Raises:
        TrackingError: If it does not exist.
    """
    try:
        version = (
            client.get_model_version(name, which)
            if which.isdecimal()
            else version_by_alias(client, name, which)
        )
    except MlflowException as error:
        if not is_missing(error):
            raise
        version = None
    if version is None:
        raise TrackingError(
            f"version {which} of {name} does not exist in the MLflow registry",
            repair=f"`advgrpo registry list {name}` shows its versions and aliases",
        )
    return version


def version_uri(version: ModelVersion) -> str:
    """Return the URI of a version, `models:/name/number`."""
    return f"models:/{version.name}/{version.version}"


def parse_uri(uri: str) -> tuple[str, str]:
    """Parse `models:/name@alias` or `models:/name/number`.

    Returns:
        The name, and the alias or number.

    Raises:
        TrackingError: If it is neither.
    """
    # Stages and "latest" are not accepted: they can change without a decision.
    match = re.fullmatch(r"models:/([^/:@]+)(?:@([^/:@]+)|/([0-9]+))", uri)
    if match is None:
        raise TrackingError(
            f"{uri!r} is not the URI of a registered adapter",
            repair="write models:/name@alias or models:/name/3",
        )
    return match[1], match[2] or match[3]


def with_absolute_paths(policy: PolicyConfig) -> PolicyConfig:
    """Make the location of the base model independent of the working directory."""
    location = policy.weights.location
    if scheme(location):
        return policy
    weights = policy.weights.model_copy(update={"location": str(Path(location).resolve())})
    return policy.model_copy(update={"weights": weights})


@contextmanager
def _download(version: ModelVersion, tracking_uri: str, below: str = "") -> Iterator[Path]:
    uri = version_uri(version)
    with tempfile.TemporaryDirectory() as folder:
        with artifact_errors(f"download {uri}", str(version.source), tracking_uri):
            path = mlflow.artifacts.download_artifacts(
                artifact_uri=f"{uri}/{below}",
                dst_path=folder,
                tracking_uri=tracking_uri,
                # Without it, MLflow would use the registry of the environment.
                registry_uri=tracking_uri,
            )
        yield Path(path)


def _check(path: Path, registered: str | None, uri: str) -> None:
    # A missing hash counts as a mismatch: a tag can be deleted.
    if registered is None or not path.is_file() or file_sha256(path) != registered:
        raise TrackingError(
            f"{path.name} of {uri} differs from the registered file",
            repair="register the adapter again with `advgrpo register`, or use another version",
        )
