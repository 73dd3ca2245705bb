import os
import shutil
from pathlib import Path

import pytest

from advgrpo.config import Weights
from advgrpo.demo.servers import BUCKET
from advgrpo.errors import WeightsError
from advgrpo.storage import cache_folder, file_hash, upload_folder
from advgrpo.storage.file_hash import cached_file_sha256
from advgrpo.storage.weights_hash import weights_digest


def model(folder: Path, weights: bytes = b"one") -> Path:
    (folder / "transformer").mkdir(parents=True)
    (folder / "model_index.json").write_text("{}", encoding="utf-8")
    (folder / "transformer" / "model.safetensors").write_bytes(weights)
    return folder


def digest(location: Path | str, subfolder: str = "") -> str:
    return weights_digest(Weights(location=str(location), subfolder=subfolder))


def overwrite(path: Path, data: bytes) -> None:
    """Write other content of the same size and set mtime back."""
    state = path.stat()
    path.write_bytes(data)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))


@pytest.fixture(params=[0, 2**24], ids=["large", "small"])
def _any_size(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_hash, "_LARGE_BYTES", request.param)


@pytest.mark.usefixtures("_any_size")
def test_a_copy_has_the_same_digest_and_overwritten_weights_do_not(tmp_path: Path) -> None:
    folder = model(tmp_path / "here")
    shutil.copytree(folder, tmp_path / "there")
    first = digest(folder)
    assert digest(folder) == digest(tmp_path / "there") == first
    overwrite(folder / "transformer" / "model.safetensors", b"two")
    assert digest(folder) != first
    overwrite(folder / "transformer" / "model.safetensors", b"one")
    assert digest(folder) == first
    (folder / "model_index.json").rename(folder / "config.json")
    assert digest(folder) != first


def test_files_that_loading_does_not_read_do_not_count(tmp_path: Path) -> None:
    folder = model(tmp_path / "model")
    first = digest(folder)
    (folder / "README.md").write_text("about it", encoding="utf-8")
    (folder / ".cache").mkdir()
    (folder / ".cache" / "download.json").write_text("{}", encoding="utf-8")
    assert digest(folder) == first


def test_only_the_subfolder_counts_and_links_are_followed(tmp_path: Path) -> None:
    folder = model(tmp_path / "model")
    first = digest(folder, "transformer")
    (folder / "model_index.json").write_text("[]", encoding="utf-8")
    assert digest(folder, "transformer") == first
    linked = tmp_path / "linked"
    linked.mkdir()
    (linked / "transformer").symlink_to(folder / "transformer")
    (linked / "model_index.json").symlink_to(folder / "model_index.json")
    assert digest(linked) == digest(folder)


def test_a_large_file_is_hashed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"one")
    monkeypatch.setattr(file_hash, "_LARGE_BYTES", 0)
    first = cached_file_sha256(path)
    monkeypatch.setattr(file_hash, "file_sha256", lambda _path: "hashed again")
    assert cached_file_sha256(path) == first
    shutil.rmtree(cache_folder() / "hashes")
    assert cached_file_sha256(path) == "hashed again"


def test_missing_weights_are_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no weights at"):
        digest(tmp_path / "gone")


@pytest.mark.usefixtures("stores")
def test_missing_weights_on_s3_are_named() -> None:
    with pytest.raises(WeightsError, match=f"no weights at s3://{BUCKET}/gone/part"):
        digest(f"s3://{BUCKET}/gone", "part")


@pytest.mark.usefixtures("stores")
def test_weights_on_s3_are_identified_by_one_listing(tmp_path: Path) -> None:
    root = f"s3://{BUCKET}/{tmp_path.name}"
    upload_folder(model(tmp_path / "one"), f"{root}/here")
    upload_folder(tmp_path / "one", f"{root}/there")
    first = digest(f"{root}/here")
    assert digest(f"{root}/there") == first
    part = digest(f"{root}/here", "transformer")
    upload_folder(model(tmp_path / "two", b"two"), f"{root}/here")
    assert first != digest(f"{root}/here") != part
    assert digest(f"{root}/here", "transformer") != part
