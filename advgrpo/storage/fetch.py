"""Local copies of files, folders and model weights from any location."""

import hashlib
from collections.abc import Collection, Mapping
from importlib import resources
from pathlib import Path

from advgrpo.config.base import Weights
from advgrpo.errors import ConfigError, StorageNotFoundError, WeightsError
from advgrpo.storage.base import FileState
from advgrpo.storage.cache import cache_folder, cached_folder
from advgrpo.storage.files import is_remote, storage_for, write_bytes
from advgrpo.storage.folders import download_files, download_folder
from advgrpo.storage.locations import join, scheme


def local_folder(source: Weights | str) -> Path:
    """Return a local folder with the content of a location.

    Local and packaged folders are used in place. Remote folders are copied to the cache, again when
    they change, and checked against their commit file if they have one. Of a hub repository, only
    safetensors, configuration and tokenizer files are downloaded.

    Args:
        source: A model's weights, or a location other than a hub.

    Raises:
        WeightsError: If the weights do not exist.
        StorageNotFoundError: If the folder does not exist.
        StorageError: If it cannot be downloaded.
    """
    if isinstance(source, Weights):
        return _weights_folder(source)
    if is_remote(source):
        return _cached_folder(source)
    path = _path(source)
    if path.is_file():
        raise _is_file(source)
    if not path.is_dir():
        raise StorageNotFoundError(
            f"{source} does not exist", repair="use the location of an existing folder"
        )
    return path


def local_file(location: str) -> Path:
    """Return a local file with the content of a location, for instance of a prompt file.

    Args:
        location: Local path, `s3://bucket/key`, `package://python.package/name`, or
            `hub://datasets/owner/name/file@COMMIT`, a file of a dataset on a hub.

    Raises:
        StorageNotFoundError: If it does not exist.
        WeightsError: If a hub has no such dataset, commit or file.
        StorageError: If it cannot be downloaded.
    """
    if is_remote(location):
        # Always read: a single small file costs no more than asking for its version.
        data = storage_for(location).read_bytes(location)
        # The file keeps its name, as the suffix determines the format of prompts.
        key = hashlib.sha256(location.encode() + b"\0" + data).hexdigest()
        path = cache_folder() / "files" / key / location.rpartition("/")[2]
        if not path.is_file():
            write_bytes(str(path), data)
        return path
    if location.startswith("hub://datasets/"):
        from advgrpo.storage.hub import dataset_file  # noqa: PLC0415 - slow to import

        return dataset_file(location, cache_folder() / "hub")
    path = _path(location)
    if not path.is_file():
        raise StorageNotFoundError(
            f"{location} is not a file", repair="use the location of an existing file"
        )
    return path


def local_files(location: str, names: Collection[str]) -> Path:
    """Return a local folder that has some files of a location.

    Args:
        location: Local folder, used in place, or remote folder, of which only these files are
            copied to the cache.
        names: Names below the folder.

    Raises:
        StorageNotFoundError: If a file does not exist.
        StorageError: If a file cannot be downloaded.
    """
    if not is_remote(location):
        return local_folder(location)
    listing = storage_for(location).list_files(location)
    if missing := sorted(set(names) - listing.keys()):
        raise StorageNotFoundError(
            f"{join(location, missing[0])} does not exist",
            repair="use the location of a folder that has the file",
        )
    selected = {name: listing[name] for name in sorted(names)}
    return cached_folder(
        cache_entry_name(location, selected),
        sum(file.bytes for file in selected.values()),
        lambda folder: download_files(location, folder, list(selected)),
    )


def cache_entry_name(location: str, listing: Mapping[str, FileState]) -> str:
    """Return the name of a cache entry, which changes with the location's content."""
    state = repr((location, [(name, *file) for name, file in sorted(listing.items())]))
    return hashlib.sha256(state.encode()).hexdigest()


def _weights_folder(weights: Weights) -> Path:
    location = weights.location
    if scheme(location) == "hub":
        # huggingface_hub is slow to import and seldom needed.
        from advgrpo.storage.hub import hub_folder  # noqa: PLC0415

        assert weights.revision is not None  # `Weights` requires a commit for a hub
        root = hub_folder(location, weights.revision, weights.subfolder, cache_folder() / "hub")
    else:
        try:
            root = local_folder(location)
        except StorageNotFoundError as error:
            raise WeightsError(
                f"no weights at {location}: {error.message}", repair=error.repair
            ) from error
    folder = Path(join(str(root), weights.subfolder))
    if not folder.is_dir():
        raise WeightsError(
            f"{location} has no folder {weights.subfolder!r}",
            repair="set `subfolder` to a folder of that location, or leave it empty",
        )
    return folder


def _path(location: str) -> Path:
    kind = scheme(location)
    if not kind:
        return Path(location)
    if kind != "package":
        raise ConfigError(
            f"{location} cannot be used here",
            repair="use a local path, s3://bucket/key or package://python.package/name",
        )
    package, _, name = location.removeprefix("package://").partition("/")
    try:
        root = resources.files(package)
    except (ModuleNotFoundError, ValueError) as error:
        raise StorageNotFoundError(
            f"{location}: package {package!r} is not installed",
            repair=f"install {package!r}, or use another location",
        ) from error
    # A package in a zip file is not a `Path`.
    if not isinstance(root, Path):
        raise StorageNotFoundError(
            f"{location}: package {package!r} is not a folder on disk", repair="install it unzipped"
        )
    return Path(join(str(root), name))


def _cached_folder(location: str) -> Path:
    storage = storage_for(location)
    listing = storage.list_files(location)
    if not listing and storage.exists(location):
        raise _is_file(location)
    if not listing:
        raise StorageNotFoundError(
            f"{location} does not exist", repair="use the location of an existing folder"
        )
    return cached_folder(
        cache_entry_name(location, listing),
        sum(file.bytes for file in listing.values()),
        # Folders that other programs uploaded have no commit file.
        lambda folder: download_folder(location, folder, must_be_committed=False),
    )


def _is_file(location: str) -> StorageNotFoundError:
    folder = location.rstrip("/").rpartition("/")[0] or "."
    return StorageNotFoundError(
        f"{location} is a file, and a folder is needed",
        repair=f"use the location of the folder, for instance {folder}",
    )
