import os
import shutil
from pathlib import Path

import pytest

from advgrpo.config import Weights
from advgrpo.demo.servers import BUCKET
from advgrpo.errors import WeightsError
from advgrpo.storage import cache_folder, content_of, content_sha256, upload_folder
from advgrpo.storage import weights_hash as content


def model(folder: Path, weights: bytes = b"one") -> Path:
    (folder / "transformer").mkdir(parents=True)
    (folder / "model_index.json").write_text("{}", encoding="utf-8")
    (folder / "transformer" / "model.safetensors").write_bytes(weights)
    return folder


def held(location: Path | str, subfolder: str = "") -> str:
    return content_of(Weights(location=str(location), subfolder=subfolder))


def exchange(path: Path, data: bytes) -> None:
    """Write others of the same size, and set the time of the last change back."""
    state = path.stat()
    path.write_bytes(data)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))


@pytest.fixture(params=[0, 2**24], ids=["large", "small"])
def _any_size(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(content, "_LARGE_BYTES", request.param)


@pytest.mark.usefixtures("_any_size")
def test_a_copy_holds_the_same_and_exchanged_weights_do_not(tmp_path: Path) -> None:
    folder = model(tmp_path / "here")
    shutil.copytree(folder, tmp_path / "there")
    first = held(folder)
    assert held(folder) == held(tmp_path / "there") == first
    exchange(folder / "transformer" / "model.safetensors", b"two")
    assert held(folder) != first
    exchange(folder / "transformer" / "model.safetensors", b"one")
    assert held(folder) == first
    (folder / "model_index.json").rename(folder / "config.json")
    assert held(folder) != first


def test_what_loading_does_not_read_does_not_count(tmp_path: Path) -> None:
    folder = model(tmp_path / "model")
    first = held(folder)
    (folder / "README.md").write_text("about it", encoding="utf-8")
    (folder / ".cache").mkdir()
    (folder / ".cache" / "download.json").write_text("{}", encoding="utf-8")
    assert held(folder) == first


def test_a_subfolder_counts_alone_and_links_are_followed(tmp_path: Path) -> None:
    folder = model(tmp_path / "model")
    first = held(folder, "transformer")
    (folder / "model_index.json").write_text("[]", encoding="utf-8")
    assert held(folder, "transformer") == first
    linked = tmp_path / "linked"
    linked.mkdir()
    (linked / "transformer").symlink_to(folder / "transformer")
    (linked / "model_index.json").symlink_to(folder / "model_index.json")
    assert held(linked) == held(folder)


def test_a_large_file_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"one")
    monkeypatch.setattr(content, "_LARGE_BYTES", 0)
    first = content_sha256(path)
    monkeypatch.setattr(content, "file_sha256", lambda _path: "read again")
    assert content_sha256(path) == first
    shutil.rmtree(cache_folder() / "hashes")
    assert content_sha256(path) == "read again"


def test_weights_that_are_not_there_are_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no weights at"):
        held(tmp_path / "gone")


@pytest.mark.usefixtures("stores")
def test_a_place_on_s3_where_nothing_is_is_named() -> None:
    with pytest.raises(WeightsError, match=f"no weights at s3://{BUCKET}/gone/part"):
        held(f"s3://{BUCKET}/gone", "part")


@pytest.mark.usefixtures("stores")
def test_on_s3_one_listing_tells(tmp_path: Path) -> None:
    place = f"s3://{BUCKET}/{tmp_path.name}"
    upload_folder(model(tmp_path / "one"), f"{place}/here")
    upload_folder(tmp_path / "one", f"{place}/there")
    first = held(f"{place}/here")
    assert held(f"{place}/there") == first
    part = held(f"{place}/here", "transformer")
    upload_folder(model(tmp_path / "two", b"two"), f"{place}/here")
    assert first != held(f"{place}/here") != part
    assert held(f"{place}/here", "transformer") != part
