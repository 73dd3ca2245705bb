"""Versions of registered adapters: lookup, download, and checks against the registered hashes."""

import hashlib
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

from advgrpo.config.policy import AdapterConfig, AnyPolicyConfig, PolicyConfig
from advgrpo.errors import PromotionError, TrackingError
from advgrpo.storage.cache import cache_folder
from advgrpo.storage.local import atomic_folder, file_sha256
from advgrpo.storage.locations import scheme
from advgrpo.tracking.artifacts import artifact_errors
from advgrpo.tracking.connection import FAULTS, connect, describe_error, is_missing

DIFFUSERS_FILE = "pytorch_lora_weights.safetensors"
ADAPTER_FILES = ("adapter_model.safetensors", "adapter_config.json", DIFFUSERS_FILE)
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


@dataclass(frozen=True)
class Champion:
    """The version that is in use, downloaded and checked."""

    version: int
    uri: str
    """`models:/name/version`."""

    adapter: Path
    """Folder in peft's layout."""

    adapter_config: AdapterConfig
    """Rank, alpha and modules of this adapter, which may differ from the present run's."""


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
                _check(folder / file, version.tags.get(ADAPTER_TAG.format(file)), uri)
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


def current_champion(
    registered_model: str, *, tracking_uri: str, policy: PolicyConfig
) -> Champion | None:
    """Download the champion, which a new adapter is compared with.

    Args:
        registered_model: Name of the registered model.
        tracking_uri: The MLflow server.
        policy: Policy of the run; its base model must be the champion's.

    Returns:
        The version with the alias `champion`; None if no version has it.

    Raises:
        PromotionError: If the champion is an adapter for another base model.
        TrackingError: If MLflow is not available, or a file differs from the registered one.
    """
    try:
        version = version_by_alias(connect(tracking_uri), registered_model, CHAMPION)
    except FAULTS as error:
        raise describe_error(
            error, f"look up the champion of {registered_model}", tracking_uri
        ) from error
    if version is None:
        return None
    uri = version_uri(version)
    theirs = read_policy(version)
    # Settings of versions have absolute paths, those of a run may be relative.
    if theirs.weights != with_absolute_paths(policy).weights:
        raise PromotionError(
            f"{uri}, the champion of {registered_model}, is an adapter for the base model "
            f"{theirs.weights.location}, not for {policy.weights.location}",
            repair="set promotion.registered_model to another name, or policy.weights as the "
            "champion has it",
        )
    # A version never changes, but two servers can have versions of the same URI.
    key = hashlib.sha256(f"{tracking_uri} {uri}".encode()).hexdigest()
    folder = download_adapter(uri, cache_folder() / "registered" / key, tracking_uri=tracking_uri)
    return Champion(int(version.version), uri, folder, theirs.adapter)


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
