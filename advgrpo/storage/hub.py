"""Downloads from a hub, at a pinned commit and without pickles, and uploads of adapters."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
from huggingface_hub import HfApi, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from advgrpo.errors import ConfigError, StorageUnavailableError, WeightsError
from advgrpo.storage.base import READ_SUFFIXES
from advgrpo.storage.local import disk_errors
from advgrpo.storage.locations import join
from advgrpo.strict_json import load_json_object

_WANTED = tuple(f"*{suffix}" for suffix in READ_SUFFIXES)
# Variants of the same weights in half precision, which would double the download.
_UNWANTED = ("*.fp16.safetensors", "*.fp16-*.safetensors", "*.bf16.safetensors", "*.onnx*")
_PIPELINE_INDEX = "model_index.json"
_DATASET_FILE = re.compile(r"hub://datasets/([^/]+/[^/]+)/(.+)@([0-9a-f]{40})")


def hub_folder(location: str, revision: str, subfolder: str, cache: Path) -> Path:
    """Download a repository, or return it from the cache.

    Args:
        location: `hub://owner/name`.
        revision: Commit hash.
        subfolder: Download only this folder; empty downloads the whole model.
        cache: Folder for downloads.

    Returns:
        The repository's root on the local disk, without pickles, half-precision variants and the
        single-file checkpoints in a pipeline's root.

    Raises:
        WeightsError: If repository, commit or files do not exist, or access is refused.
        StorageUnavailableError: If the hub does not answer.
        StorageFullError: If the disk is full.
    """
    name = location.removeprefix("hub://")
    with disk_errors("write", cache):
        if subfolder:
            patterns = [f"{subfolder}/{pattern}" for pattern in _WANTED]
        else:
            # A pipeline's root often has the same weights again, in a single file.
            patterns = _patterns(_download(name, revision, cache, [_PIPELINE_INDEX, "config.json"]))
        root = _download(name, revision, cache, patterns)
    if not any(Path(join(str(root), subfolder)).rglob("*.json")):
        raise WeightsError(
            f"{location} has no model in {subfolder or 'its root'!r}",
            repair="set `subfolder` to a folder of the repository with a config.json",
        )
    return root


def dataset_file(location: str, cache: Path) -> Path:
    """Download a file of a dataset, or return it from the cache.

    Args:
        location: `hub://datasets/owner/name/file@COMMIT`.
        cache: Folder for downloads.

    Raises:
        ConfigError: If the location has another form.
        WeightsError: If dataset, commit or file do not exist, or access is refused.
        StorageUnavailableError: If the hub does not answer.
    """
    match = _DATASET_FILE.fullmatch(location)
    if match is None:
        raise ConfigError(
            f"{location} names no file at a commit of a dataset",
            repair="write hub://datasets/OWNER/NAME/FILE@COMMIT with the full hash of a commit",
        )
    name, file, commit = match.groups()
    with disk_errors("write", cache), _translate_errors(name, f"{file} at commit {commit}"):
        return Path(
            hf_hub_download(
                name,
                file,
                repo_type="dataset",
                revision=commit,
                cache_dir=cache,
                endpoint=os.environ.get("HF_ENDPOINT"),
            )
        )


def latest_commit(name: str) -> str:
    """Return the commit of a repository's main branch, as the hub has it now.

    Args:
        name: `owner/name`.

    Raises:
        WeightsError: If the repository does not exist, or access is refused.
        StorageUnavailableError: If the hub does not answer.
    """
    with _translate_errors(name, "branch main"):
        info = HfApi(endpoint=os.environ.get("HF_ENDPOINT")).model_info(name, timeout=20.0)
    return str(info.sha)


def push_folder(folder: Path, name: str, *, message: str) -> str:
    """Upload a folder to a model repository, which is created, private, if it does not exist.

    Args:
        folder: The repository's files; files of an earlier upload with other names stay.
        name: `owner/name`.
        message: The commit's message.

    Returns:
        Address of the commit.

    Raises:
        WeightsError: If the hub refuses the files, or access.
        StorageUnavailableError: If the hub does not answer.
    """
    hub = HfApi(endpoint=os.environ.get("HF_ENDPOINT"))
    try:
        # Private, because publishing is a decision about licences and prompts.
        hub.create_repo(name, private=True, exist_ok=True)
        commit = hub.upload_folder(repo_id=name, folder_path=folder, commit_message=message)
    # Also subclasses of OSError and of the HTTP library's errors, so they must come first.
    except (HfHubHTTPError, ValueError) as error:
        raise WeightsError(
            f"hub://{name} refuses the upload: {error}",
            repair="check the name OWNER/NAME, and that HF_TOKEN may write to it",
        ) from error
    except (httpx2.HTTPError, OSError) as error:
        raise StorageUnavailableError(
            f"cannot upload to hub://{name}: {error}",
            repair="check the network and HF_ENDPOINT, or upload the folder later",
        ) from error
    return str(commit.commit_url)


def _download(name: str, revision: str, cache: Path, patterns: list[str]) -> Path:
    with _translate_errors(name, f"commit {revision}"):
        folder = snapshot_download(
            name,
            revision=revision,
            cache_dir=cache,
            allow_patterns=patterns,
            ignore_patterns=list(_UNWANTED),
            # The library reads the variable only once, when it is imported.
            endpoint=os.environ.get("HF_ENDPOINT"),
        )
    return Path(folder)


@contextmanager
def _translate_errors(name: str, wanted: str) -> Iterator[None]:
    try:
        yield
    # A subclass of RepositoryNotFoundError, so it must come first.
    except GatedRepoError as error:
        raise WeightsError(
            f"hub://{name} is gated: {error}",
            repair="accept its terms on the hub and set HF_TOKEN",
        ) from error
    except (
        RepositoryNotFoundError,
        RevisionNotFoundError,
        RemoteEntryNotFoundError,
        HFValidationError,
    ) as error:
        raise WeightsError(
            f"hub://{name} has no {wanted}: {error}",
            repair="set `location` to hub://owner/name and `revision` to a commit of it",
        ) from error
    # Without a network, the metadata call raises the HTTP library's own errors or OSError, of which
    # the library's offline mode is a subclass.
    except (LocalEntryNotFoundError, httpx2.HTTPError, OSError) as error:
        raise StorageUnavailableError(
            f"cannot fetch hub://{name}: {error}",
            repair="check the network and HF_ENDPOINT, or copy the model to S3 or a folder and use "
            "that location",
        ) from error


def _patterns(root: Path) -> list[str]:
    index = root / _PIPELINE_INDEX
    if not index.exists():
        return list(_WANTED)
    try:
        parts = [part for part in load_json_object(index.read_bytes()) if not part.startswith("_")]
    except ValueError as error:
        raise WeightsError(f"{index} is damaged: {error}", repair="use another commit") from error
    return [_PIPELINE_INDEX, *(f"{part}/{pattern}" for part in parts for pattern in _WANTED)]
