"""Registered adapters, read back: fetched, and checked to be what was registered."""

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

from advgrpo import storage
from advgrpo.config import AdapterConfig, AnyPolicyConfig, PolicyConfig
from advgrpo.errors import PromotionError, TrackingError
from advgrpo.storage.local import atomic_folder
from advgrpo.tracking.connection import FAULTS, connect, explained, misses

ADAPTER_FILES = (
    "adapter_model.safetensors",
    "adapter_config.json",
    "pytorch_lora_weights.safetensors",
)
"""What a registered adapter holds: peft's layout, and the one that plain diffusers loads."""

ADAPTER_FOLDER = "artifacts/adapter"
"""Where the adapter lies among the files of a version."""

FILES_LIST = "files.json"
"""Lists every other file of a version with its SHA-256."""

TAG_PREFIX = "advgrpo."
FILES_TAG = "advgrpo.files"
"""Holds the SHA-256 of `FILES_LIST`."""

ADAPTER_TAG = "advgrpo.adapter.{}"
POLICY_TAG = "advgrpo.policy"
MODEL_TAG = "advgrpo.model"
"""Marks a registered model as ours; no other is ever touched."""

CHAMPION = "champion"
"""Alias of the version that is in use."""

PREVIOUS = "previous"
"""Alias of the version that was in use before."""


@dataclass(frozen=True)
class RegisteredAdapter:
    """A version of a registered model."""

    name: str
    version: int
    uri: str
    """`models:/name/version`."""


@dataclass(frozen=True)
class Champion:
    """The version that is in use, fetched and checked."""

    version: int
    uri: str
    """`models:/name/version`."""

    adapter: Path
    """Folder in peft's layout."""

    adapter_config: AdapterConfig
    """Rank, alpha and modules of this adapter, which may differ from a later run's."""


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
    name, which = parsed_uri(uri)
    try:
        client = connect(tracking_uri)
        found = find_version(client, name, which)
        with _download(found, tracking_uri, ADAPTER_FOLDER) as fetched:
            for file in ADAPTER_FILES:
                _check(fetched / file, found.tags.get(ADAPTER_TAG.format(file)), uri)
            with atomic_folder(destination) as partial:
                for file in ADAPTER_FILES:
                    shutil.copyfile(fetched / file, partial / file)
    except FAULTS as error:
        raise explained(error, f"fetch {uri}", tracking_uri) from error
    return destination


@contextmanager
def fetched_version(version: ModelVersion, tracking_uri: str) -> Iterator[Path]:
    """Fetch all files of a version for the length of the block, and check every one.

    Raises:
        TrackingError: If a file is missing or is not the one that was registered.
    """
    uri = uri_of(version)
    with _download(version, tracking_uri) as folder:
        _check(folder / FILES_LIST, version.tags.get(FILES_TAG), uri)
        listed: dict[str, str] = json.loads((folder / FILES_LIST).read_text(encoding="utf-8"))
        for name, digest in listed.items():
            _check(folder / name, digest, uri)
        yield folder


def current_champion(
    registered_model: str, *, tracking_uri: str, policy: PolicyConfig
) -> Champion | None:
    """Fetch the adapter that a new one has to beat.

    Args:
        registered_model: Name of the registered model.
        tracking_uri: The MLflow server.
        policy: The run's; its base model must be the champion's.

    Returns:
        The version with the alias `champion`; None if there is none.

    Raises:
        PromotionError: If the champion is an adapter for another base model.
        TrackingError: If MLflow is not available, or the files are not those that were registered.
    """
    try:
        version = aliased(connect(tracking_uri), registered_model, CHAMPION)
    except FAULTS as error:
        raise explained(
            error, f"look up the champion of {registered_model}", tracking_uri
        ) from error
    if version is None:
        return None
    uri = uri_of(version)
    theirs = registered_policy(version)
    if theirs.weights != with_absolute_paths(policy).weights:
        raise PromotionError(
            f"{uri}, the champion of {registered_model}, is an adapter for the base model "
            f"{theirs.weights.location}, not for {policy.weights.location}",
            repair="set promotion.registered_model to another name, or policy.weights as the "
            "champion has it",
        )
    key = hashlib.sha256(f"{tracking_uri} {uri}".encode()).hexdigest()
    folder = registered_adapter(
        uri, storage.cache_folder() / "registered" / key, tracking_uri=tracking_uri
    )
    return Champion(int(version.version), uri, folder, theirs.adapter)


def aliased(client: MlflowClient, name: str, alias: str) -> ModelVersion | None:
    """Find the version that an alias points at; None if there is none."""
    try:
        return client.get_model_version_by_alias(name, alias)
    except MlflowException as error:
        if misses(error) or error.error_code == "INVALID_PARAMETER_VALUE":
            return None
        raise


def registered_policy(version: ModelVersion) -> PolicyConfig:
    """Read which base model a version is for, and the shape of its adapter.

    Raises:
        TrackingError: If the version does not say.
    """
    try:
        return TypeAdapter(AnyPolicyConfig).validate_json(version.tags.get(POLICY_TAG, ""))
    except ValidationError as error:
        raise TrackingError(
            f"{uri_of(version)} does not say which base model it is for: "
            f"its tag {POLICY_TAG} is missing or damaged",
            repair="register the adapter again",
        ) from error


def find_version(client: MlflowClient, name: str, which: str) -> ModelVersion:
    """Find a version by its number or an alias.

    Raises:
        TrackingError: If there is none.
    """
    try:
        found = (
            client.get_model_version(name, which)
            if which.isdecimal()
            else aliased(client, name, which)
        )
    except MlflowException as error:
        if not misses(error):
            raise
        found = None
    if found is None:
        raise TrackingError(
            f"there is no version {which} of {name} in the MLflow registry",
            repair=f"`advgrpo registry list {name}` shows its versions and aliases",
        )
    return found


def uri_of(version: ModelVersion) -> str:
    """Spell a version as `models:/name/number`."""
    return f"models:/{version.name}/{version.version}"


def parsed_uri(uri: str) -> tuple[str, str]:
    """Take `models:/name@alias` or `models:/name/number` apart.

    Returns:
        The name, and the alias or number.

    Raises:
        TrackingError: If it is neither.
    """
    match = re.fullmatch(r"models:/([^/:@]+)(?:@([^/:@]+)|/([0-9]+))", uri)
    if match is None:
        raise TrackingError(
            f"{uri!r} names no registered adapter",
            repair="write models:/name@alias or models:/name/3",
        )
    return match[1], match[2] or match[3]


def with_absolute_paths(policy: PolicyConfig) -> PolicyConfig:
    """Make a policy's settings mean the same in every folder."""
    location = policy.weights.location
    if storage.scheme(location):
        return policy
    weights = policy.weights.model_copy(update={"location": str(Path(location).resolve())})
    return policy.model_copy(update={"weights": weights})


@contextmanager
def _download(version: ModelVersion, tracking_uri: str, below: str = "") -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        yield Path(
            mlflow.artifacts.download_artifacts(
                artifact_uri=f"{uri_of(version)}/{below}",
                dst_path=folder,
                tracking_uri=tracking_uri,
                registry_uri=tracking_uri,
            )
        )


def _check(path: Path, registered: str | None, uri: str) -> None:
    if registered is None or not path.is_file() or storage.file_sha256(path) != registered:
        raise TrackingError(
            f"{path.name} of {uri} is not the file that was registered",
            repair="register the adapter again, or use another version",
        )
