import hashlib
from pathlib import Path

import pytest

from advgrpo.config import Weights
from advgrpo.config import base as settings
from advgrpo.errors import ConfigError, StorageNotFoundError
from advgrpo.storage import (
    FileState,
    Storage,
    check_writable,
    download_folder,
    is_remote,
    list_files,
    read_bytes,
    restrict_writes,
    upload_folder,
    write_bytes,
)
from advgrpo.storage.archives import extract
from advgrpo.storage.fetch import local_file, local_files, local_folder
from advgrpo.storage.files import BACKENDS
from advgrpo.storage.weights_hash import weights_digest
from advgrpo.storage.write_guard import check_may_write


class MemoryStorage:
    """A toy backend, as another package would add one."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}

    def read_bytes(self, location: str) -> bytes:
        if location not in self.files:
            raise StorageNotFoundError(f"{location} does not exist", repair="write it first")
        return self.files[location]

    def write_bytes(self, location: str, data: bytes) -> None:
        check_may_write(location)
        self.files[location] = data

    def upload_file(self, source: Path, location: str) -> None:
        self.write_bytes(location, source.read_bytes())

    def download_file(self, location: str, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(self.read_bytes(location))

    def exists(self, location: str) -> bool:
        return location in self.files

    def list_files(self, location: str) -> dict[str, FileState]:
        prefix = f"{location.rstrip('/')}/"
        return {
            name.removeprefix(prefix): FileState(len(data), hashlib.sha256(data).hexdigest())
            for name, data in sorted(self.files.items())
            if name.startswith(prefix)
        }

    def delete(self, location: str) -> None:
        check_may_write(location)
        for name in [location, *(f"{location}/{name}" for name in self.list_files(location))]:
            self.files.pop(name, None)


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> MemoryStorage:
    storage = MemoryStorage()
    monkeypatch.setitem(BACKENDS, "memory", lambda: storage)
    monkeypatch.setattr(settings, "SCHEMES", (*settings.SCHEMES, "memory"))
    return storage


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    (tmp_path / "model" / "model.safetensors").write_bytes(b"weights")
    return tmp_path / "model"


def test_a_backend_is_one_class_and_one_entry(memory: MemoryStorage) -> None:
    assert isinstance(memory, Storage)
    assert is_remote("memory://models/a")
    check_writable("memory://models")
    write_bytes("memory://models/prompts.txt", b"a cat\n")
    assert read_bytes("memory://models/prompts.txt") == b"a cat\n"
    assert local_file("memory://models/prompts.txt").read_text() == "a cat\n"


@pytest.mark.usefixtures("memory")
def test_folders_weights_and_archives_use_a_new_backend(folder: Path, tmp_path: Path) -> None:
    location = "memory://models/tiny"
    upload_folder(folder, location)
    assert "commit.json" in list_files(location)
    download_folder(location, tmp_path / "copy")
    weights = Weights(location=location)
    for copy in (
        tmp_path / "copy",
        local_folder(weights),
        local_files(location, ["config.json", "model.safetensors"]),
        extract(location),
    ):
        assert (copy / "model.safetensors").read_bytes() == b"weights"
    before = weights_digest(weights)
    write_bytes(f"{location}/model.safetensors", b"others")
    assert weights_digest(weights) != before


@pytest.mark.usefixtures("memory")
def test_writes_on_a_new_backend_can_be_restricted() -> None:
    with restrict_writes("memory://models/mine"):
        write_bytes("memory://models/mine/a", b"x")
        with pytest.raises(ConfigError, match="ADVGRPO_WRITE_PREFIX"):
            write_bytes("memory://models/theirs/a", b"x")


def test_an_unknown_scheme_is_refused() -> None:
    with pytest.raises(ConfigError, match="not a local path or an s3:// location"):
        write_bytes("memory://models/a", b"x")
    with pytest.raises(ValueError, match="'memory://' is not a supported scheme"):
        Weights(location="memory://models/a")
