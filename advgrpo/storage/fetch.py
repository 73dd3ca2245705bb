"""Bring whatever a location names to the local disk."""

import hashlib
from collections.abc import Collection, Mapping
from importlib import resources
from pathlib import Path

from advgrpo.config.base import Weights
from advgrpo.errors import ConfigError, StorageNotFoundError, WeightsError
from advgrpo.storage.base import FileState, join, scheme
from advgrpo.storage.cache import cache_folder, cached_folder
from advgrpo.storage.files import storage_for, write_bytes
from advgrpo.storage.folders import download_files, download_folder


def local_folder(place: Weights | str) -> Path:
    """Bring a folder to the local disk.

    Local and packaged folders are used where they lie. S3 folders are copied to the cache once and
    again when they change; files are checked against the folder's commit file if it has one. Of a
    hub repository, only safetensors, configuration and tokenizer files are fetched.

    Args:
        place: A model's weights, or a location other than a hub.

    Raises:
        WeightsError: If there are no such weights.
        StorageNotFoundError: If there is no such folder.
        StorageError: If it cannot be fetched.
    """
    if isinstance(place, Weights):
        return _weights_folder(place)
    if scheme(place) == "s3":
        return _fetched_folder(place)
    path = _path(place)
    if not path.is_dir():
        raise StorageNotFoundError(f"there is no folder {place}", repair="check the location")
    return path


def local_file(location: str) -> Path:
    """Bring a file, such as a prompt file, to the local disk.

    Raises:
        StorageNotFoundError: If there is no such file.
        StorageError: If it cannot be fetched.
    """
    if scheme(location) == "s3":
        data = storage_for(location).read_bytes(location)
        key = hashlib.sha256(location.encode() + b"\0" + data).hexdigest()
        path = cache_folder() / "files" / key / location.rpartition("/")[2]
        if not path.is_file():
            write_bytes(str(path), data)
        return path
    path = _path(location)
    if not path.is_file():
        raise StorageNotFoundError(f"there is no file {location}", repair="check the location")
    return path


def local_files(location: str, names: Collection[str]) -> Path:
    """Bring some files of a folder to the local disk.

    Args:
        location: Local folder, used where it lies, or `s3://` location, of which only these files
            are copied to the cache.
        names: Names below the folder.

    Returns:
        A folder that holds them.

    Raises:
        StorageNotFoundError: If there is no such file.
        StorageError: If one cannot be fetched.
    """
    if scheme(location) != "s3":
        return local_folder(location)
    listing = storage_for(location).list_files(location)
    if absent := sorted(set(names) - listing.keys()):
        raise StorageNotFoundError(
            f"there is no file {join(location, absent[0])}", repair="check the location"
        )
    wanted = {name: listing[name] for name in sorted(names)}
    return cached_folder(
        fetched_name(location, wanted),
        sum(file.bytes for file in wanted.values()),
        lambda folder: download_files(location, folder, list(wanted)),
    )


def _weights_folder(weights: Weights) -> Path:
    location = weights.location
    if scheme(location) == "hub":
        # Slow to import, and seldom needed.
        from advgrpo.storage.hub import hub_folder  # noqa: PLC0415

        assert weights.revision is not None  # Weights pins each hub location
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
            repair="check location and subfolder of the weights",
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
            f"{location}: there is no package {package!r}", repair="check the location"
        ) from error
    if not isinstance(root, Path):
        raise StorageNotFoundError(
            f"{location}: package {package!r} is not a folder on disk", repair="install it unzipped"
        )
    return Path(join(str(root), name))


def _fetched_folder(location: str) -> Path:
    listing = storage_for(location).list_files(location)
    if not listing:
        raise StorageNotFoundError(f"{location} is empty or absent", repair="check the location")
    return cached_folder(
        fetched_name(location, listing),
        sum(file.bytes for file in listing.values()),
        lambda folder: download_folder(location, folder, must_be_committed=False),
    )


def fetched_name(location: str, listing: Mapping[str, FileState]) -> str:
    """Name a folder of the cache by where it comes from and the state it is in there."""
    state = repr((location, [(name, *file) for name, file in sorted(listing.items())]))
    return hashlib.sha256(state.encode()).hexdigest()
