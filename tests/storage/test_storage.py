import hashlib
import json
import os
import subprocess
import sys
import threading
from collections import UserDict
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from advgrpo import storage
from advgrpo.config import Weights
from advgrpo.demo.servers import EmbeddedServers
from advgrpo.errors import (
    ConfigError,
    StorageError,
    StorageFullError,
    StorageNotFoundError,
    StorageUnavailableError,
    WeightsError,
)
from advgrpo.redaction import redact
from advgrpo.storage import fetch
from advgrpo.storage.s3 import S3Storage
from tests.proxy import Proxy

COMMIT = "0123456789" * 4


@pytest.fixture(params=["local", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "local":
        return str(tmp_path / "place")
    request.getfixturevalue("stores")
    return f"s3://advgrpo/{tmp_path.name}"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "source"
    (root / "sub").mkdir(parents=True)
    (root / "a.json").write_text("{}")
    (root / "sub" / "weights.safetensors").write_bytes(bytes(range(256)) * 40)
    (root / "empty").write_bytes(b"")
    return root


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != storage.COMMIT_FILE
    }


def test_written_content_is_read_back(place: str) -> None:
    location = storage.join(place, "sub", "file")
    assert not storage.exists(location)
    storage.write_bytes(location, b"one")
    storage.write_bytes(location, b"two")
    assert storage.read_bytes(location) == b"two"
    assert storage.exists(location)
    assert not storage.exists(storage.join(place, "sub"))
    assert storage.list_files(place) == ("sub/file",)


def test_deleting_a_folder_spares_others_with_the_same_prefix(place: str) -> None:
    for name in ("run/a", "run/b/c", "run2/a"):
        storage.write_bytes(storage.join(place, name), b"x")
    storage.delete(storage.join(place, "run"))
    storage.delete(storage.join(place, "run"))
    assert storage.list_files(place) == ("run2/a",)


def test_reading_a_missing_file_names_it(place: str) -> None:
    location = storage.join(place, "nothing")
    with pytest.raises(StorageNotFoundError, match="nothing"):
        storage.read_bytes(location)
    assert storage.list_files(location) == ()


def test_a_folder_is_unchanged_after_a_round_trip(place: str, folder: Path, tmp_path: Path) -> None:
    storage.upload_folder(folder, place)
    storage.download_folder(place, tmp_path / "back")
    assert contents(tmp_path / "back") == contents(folder)
    assert storage.read_commit(str(tmp_path / "back")) == storage.read_commit(place)


def test_uploading_again_removes_stale_files(place: str, folder: Path, tmp_path: Path) -> None:
    storage.upload_folder(folder, place)
    (folder / "empty").unlink()
    (folder / "a.json").write_text("[]")
    storage.upload_folder(folder, place)
    storage.download_folder(place, tmp_path / "back")
    assert contents(tmp_path / "back") == contents(folder)
    assert "empty" not in storage.list_files(place)


def test_an_incomplete_folder_is_refused(place: str, folder: Path, tmp_path: Path) -> None:
    storage.upload_folder(folder, place)
    storage.delete(storage.join(place, storage.COMMIT_FILE))
    with pytest.raises(StorageNotFoundError, match="is incomplete"):
        storage.download_folder(place, tmp_path / "back")
    assert not (tmp_path / "back").exists()


@pytest.mark.parametrize(
    ("damage", "problem"),
    [(b"short", "5 bytes instead of 10240"), (b"z" * 10240, "the SHA-256 in commit.json")],
)
def test_a_damaged_file_is_named_and_the_target_is_unchanged(
    place: str, folder: Path, tmp_path: Path, damage: bytes, problem: str
) -> None:
    storage.upload_folder(folder, place)
    storage.write_bytes(storage.join(place, "sub/weights.safetensors"), damage)
    (tmp_path / "back").mkdir()
    (tmp_path / "back" / "old").write_text("old")
    with pytest.raises(StorageError, match=f"weights.safetensors (has|does not have) {problem}"):
        storage.download_folder(place, tmp_path / "back")
    assert contents(tmp_path / "back") == {"old": b"old"}
    assert not list(tmp_path.glob(".partial-*"))


def test_a_missing_file_of_a_committed_folder_is_named(
    place: str, folder: Path, tmp_path: Path
) -> None:
    storage.upload_folder(folder, place)
    storage.delete(storage.join(place, "a.json"))
    with pytest.raises(StorageNotFoundError, match=r"a\.json"):
        storage.download_folder(place, tmp_path / "back")


def test_a_commit_file_cannot_lead_out_of_its_folder(place: str, tmp_path: Path) -> None:
    entry = {"bytes": 1, "sha256": hashlib.sha256(b"x").hexdigest()}
    commit = json.dumps({"files": {"../outside": entry}}).encode()
    storage.write_bytes(storage.join(place, "in", storage.COMMIT_FILE), commit)
    storage.write_bytes(storage.join(place, "outside"), b"x")
    with pytest.raises(ConfigError, match="leads out"):
        storage.download_folder(storage.join(place, "in"), tmp_path / "deep" / "back")
    assert not (tmp_path / "deep" / "outside").exists()


def test_a_full_disk_leaves_the_old_file_and_no_partial_one(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"old")
    # RLIMIT_FSIZE simulates a full disk.
    script = (
        "import resource, sys\n"
        "from advgrpo import storage\n"
        "from advgrpo.errors import StorageFullError\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "try:\n"
        "    storage.write_bytes(sys.argv[1], b'x' * 100_000)\n"
        "except StorageFullError as error:\n"
        "    sys.exit(str(error))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "file")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert str(tmp_path / "file") in done.stderr, done.stderr
    assert "repair: free some space" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_bytes() == b"old"


def test_a_path_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(StorageError, match="file/below"):
        storage.write_bytes(str(tmp_path / "file" / "below"), b"x")


def test_an_unreachable_server_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    with pytest.raises(StorageUnavailableError, match=r"s3://bucket/key at http://127\.0\.0\.1:9"):
        S3Storage(attempts=2).read_bytes("s3://bucket/key")


def test_each_status_of_a_failing_server_has_its_error(
    stores: EmbeddedServers,
    proxy: Callable[[str], Proxy],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    failing = proxy(stores.s3_endpoint)
    failing.mode = "refuse_all"
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", failing.url)
    server = S3Storage(attempts=1)
    (tmp_path / "file").write_bytes(b"x")
    for status, error in {
        503: StorageUnavailableError,
        500: StorageUnavailableError,
        429: StorageUnavailableError,
        507: StorageFullError,
        403: StorageError,
    }.items():
        failing.status = status
        for attempt in (
            lambda: server.write_bytes("s3://advgrpo/key", b"x"),
            lambda: server.upload_file(tmp_path / "file", "s3://advgrpo/key"),
            lambda: server.download_file("s3://advgrpo/key", tmp_path / "copy"),
            lambda: server.read_bytes("s3://advgrpo/key"),
            lambda: server.list_files("s3://advgrpo/key"),
            lambda: server.exists("s3://advgrpo/key"),
            lambda: server.delete("s3://advgrpo/key"),
        ):
            with pytest.raises(StorageError, match="s3://advgrpo/key at ") as caught:
                attempt()
            assert type(caught.value) is error
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_request_is_retried(
    stores: EmbeddedServers, proxy: Callable[[str], Proxy], monkeypatch: pytest.MonkeyPatch
) -> None:
    failing = proxy(stores.s3_endpoint)
    failing.mode = "refuse_first"
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", failing.url)
    S3Storage(attempts=2).write_bytes("s3://advgrpo/recovers", b"x")
    assert failing.requests == 2


def test_a_silent_server_is_a_timeout(
    stores: EmbeddedServers, proxy: Callable[[str], Proxy], monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = proxy(stores.s3_endpoint)
    slow.mode, slow.delay_seconds = "slow", 3.0
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", slow.url)
    with pytest.raises(StorageUnavailableError, match="timeout"):
        S3Storage(attempts=2, read_timeout_seconds=0.2).read_bytes("s3://advgrpo/key")


@pytest.mark.usefixtures("stores")
def test_wrong_credentials_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(StorageError, match="SignatureDoesNotMatch") as caught:
        storage.write_bytes("s3://advgrpo/key", b"x")
    assert "AWS_SECRET_ACCESS_KEY" in caught.value.repair


def test_a_folder_deleted_during_a_listing_is_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, scandir = tmp_path / "turn-1", os.scandir
    folder.mkdir()
    (tmp_path / "stays").touch()

    def scan(path: Path | str) -> object:
        if Path(path) == folder:
            folder.rmdir()
        return scandir(path)

    monkeypatch.setattr(os, "scandir", scan)
    assert storage.list_files(str(tmp_path)) == ("stays",)
    assert not folder.exists()


def test_an_interrupted_upload_leaves_an_incomplete_folder(
    stores: EmbeddedServers,
    proxy: Callable[[str], Proxy],
    monkeypatch: pytest.MonkeyPatch,
    folder: Path,
    tmp_path: Path,
) -> None:
    storage.upload_folder(folder, "s3://advgrpo/breaks")
    failing = proxy(stores.s3_endpoint)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", failing.url)
    server = storage.storage_for("s3://advgrpo")
    original = server.upload_file

    def breaks(source: Path, location: str) -> None:
        original(source, location)
        failing.mode, failing.status = "refuse_all", 403

    monkeypatch.setattr(server, "upload_file", breaks)
    with pytest.raises(StorageError):
        storage.upload_folder(folder, "s3://advgrpo/breaks")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", stores.s3_endpoint)
    with pytest.raises(StorageNotFoundError, match="is incomplete"):
        storage.download_folder("s3://advgrpo/breaks", tmp_path / "back")


@pytest.mark.usefixtures("stores")
def test_an_s3_folder_is_downloaded_again_only_after_a_change(folder: Path) -> None:
    storage.upload_folder(folder, "s3://advgrpo/cached")
    first = fetch.local_folder("s3://advgrpo/cached")
    written = (first / "a.json").stat().st_mtime_ns
    assert fetch.local_folder("s3://advgrpo/cached") == first
    assert (first / "a.json").stat().st_mtime_ns == written
    (folder / "a.json").write_text("[1]")
    storage.upload_folder(folder, "s3://advgrpo/cached")
    assert (fetch.local_folder("s3://advgrpo/cached") / "a.json").read_text() == "[1]"


@pytest.mark.usefixtures("stores")
def test_weights_on_s3_need_no_commit_file_and_may_be_in_a_subfolder() -> None:
    storage.write_bytes("s3://advgrpo/plain/model/config.json", b"{}")
    found = fetch.local_folder(Weights(location="s3://advgrpo/plain", subfolder="model"))
    assert (found / "config.json").read_text() == "{}"


@pytest.mark.usefixtures("stores")
def test_a_prompt_file_on_s3_keeps_its_name() -> None:
    storage.write_bytes("s3://advgrpo/prompts/train.txt", b"a cat\n")
    path = fetch.local_file("s3://advgrpo/prompts/train.txt")
    assert (path.name, path.read_text()) == ("train.txt", "a cat\n")


def test_packaged_files_are_used_in_place() -> None:
    path = fetch.local_file("package://advgrpo.config/presets/pocket.yaml")
    assert path.parent == fetch.local_folder("package://advgrpo.config/presets")


@pytest.mark.parametrize(
    "location", ["nowhere/at/all", "package://advgrpo.nothing/x", "package://advgrpo.config/x"]
)
def test_a_missing_location_is_named(location: str) -> None:
    with pytest.raises(StorageNotFoundError, match=location):
        fetch.local_folder(location)
    with pytest.raises(StorageNotFoundError, match=location):
        fetch.local_file(location)
    with pytest.raises(WeightsError, match=location):
        fetch.local_folder(Weights(location=location))


@pytest.mark.parametrize("location", ["hub://owner/name", "package://advgrpo.config/x"])
def test_only_local_and_s3_locations_are_written(location: str) -> None:
    with pytest.raises(ConfigError, match="not a local path or an s3"):
        storage.write_bytes(location, b"x")


def test_joined_names_stay_inside() -> None:
    assert storage.join("s3://bucket/", "a/", "", "b") == "s3://bucket/a/b"
    assert storage.join("/", "a") == "/a"
    for name in ("../up", "a/../../up", "/root", "a\0b"):
        with pytest.raises(ConfigError, match="leads out"):
            storage.join("s3://bucket", name)


@pytest.mark.usefixtures("stores")
def test_a_run_writes_and_deletes_only_below_its_workspace(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    server = storage.storage_for("s3://advgrpo")
    elsewhere = ("s3://advgrpo/mine2/file", "s3://other/mine/file", "s3://advgrpo/mine/../file")
    with storage.restrict_writes("s3://advgrpo/mine"):
        server.write_bytes("s3://advgrpo/mine/file", b"x")
        for location in elsewhere:
            for attempt in (
                lambda location=location: server.write_bytes(location, b"x"),
                lambda location=location: server.upload_file(tmp_path / "file", location),
                lambda location=location: server.delete(location),
            ):
                with pytest.raises(ConfigError, match="ADVGRPO_WRITE_PREFIX=s3://advgrpo/mine: "):
                    attempt()
        with pytest.raises(ConfigError, match="s3://advgrpo/theirs"):
            storage.restrict_writes("s3://advgrpo/theirs").__enter__()
        with storage.restrict_writes("s3://advgrpo/mine/run"), pytest.raises(ConfigError):
            server.write_bytes("s3://advgrpo/mine/file", b"x")
        assert server.read_bytes("s3://advgrpo/mine/file") == b"x"
    server.write_bytes("s3://advgrpo/mine2/file", b"x")


PIPELINE = {
    "model_index.json": b'{"_class_name": "X", "vae": ["diffusers", "AutoencoderKL"]}',
    "vae/config.json": b"{}",
    "vae/diffusion_pytorch_model.safetensors": b"weights",
    "vae/diffusion_pytorch_model.fp16.safetensors": b"half",
    "vae/diffusion_pytorch_model.bin": b"pickle",
    "single_file.safetensors": b"all in one",
}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A model hub with one repository at one commit."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            base = f"/owner/name/resolve/{COMMIT}/"
            if self.path.startswith(f"/api/models/owner/name/tree/{COMMIT}"):
                tree = [
                    {"type": "file", "path": n, "size": len(d), "oid": hashlib.sha1(d).hexdigest()}
                    for n, d in PIPELINE.items()
                ]
                self._answer(200, json.dumps(tree).encode())
            elif self.path.removeprefix(base) in PIPELINE:
                self._answer(200, PIPELINE[self.path.removeprefix(base)])
            elif self.path.startswith(base):
                self._answer(404, b"", "EntryNotFound")
            elif "owner/broken" in self.path:
                # The library retries 5xx for half a minute.
                self._answer(418, b"")
            else:
                self._answer(404, b"", "RepoNotFound")

        do_HEAD = do_GET  # noqa: N815

        def _answer(self, status: int, body: bytes, error: str = "") -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("ETag", f'"{hashlib.sha1(body).hexdigest()}"')
            self.send_header("X-Repo-Commit", COMMIT)
            if error:
                self.send_header("X-Error-Code", error)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    yield
    server.shutdown()
    thread.join()
    server.server_close()


def files(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.usefixtures("hub")
def test_only_needed_files_of_a_hub_pipeline_are_downloaded() -> None:
    found = fetch.local_folder(Weights(location="hub://owner/name", revision=COMMIT))
    assert files(found) == {
        "model_index.json",
        "vae/config.json",
        "vae/diffusion_pytorch_model.safetensors",
    }


@pytest.mark.usefixtures("hub")
def test_only_the_subfolder_of_a_hub_repository_is_downloaded() -> None:
    found = fetch.local_folder(
        Weights(location="hub://owner/name", revision=COMMIT, subfolder="vae")
    )
    assert files(found) == {"config.json", "diffusion_pytorch_model.safetensors"}
    assert not (found.parent / "model_index.json").exists()


@pytest.mark.usefixtures("hub")
def test_a_missing_hub_model_is_named() -> None:
    with pytest.raises(WeightsError, match="owner/other"):
        fetch.local_folder(Weights(location="hub://owner/other", revision=COMMIT))
    with pytest.raises(WeightsError, match="'unet'"):
        fetch.local_folder(Weights(location="hub://owner/name", revision=COMMIT, subfolder="unet"))


@pytest.mark.usefixtures("hub")
def test_a_failing_hub_is_unavailable() -> None:
    with pytest.raises(StorageUnavailableError, match="hub://owner/broken"):
        fetch.local_folder(Weights(location="hub://owner/broken", revision=COMMIT))


@pytest.mark.parametrize("location", ["s3:/bucket/x", "s3:bucket/x", "s3//bucket/x"])
def test_a_malformed_location_is_not_a_folder_on_this_machine(
    location: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for attempt in (
        lambda: storage.write_bytes(location, b""),
        lambda: storage.read_bytes(location),
        lambda: storage.list_files(location),
        lambda: storage.check_writable(location),
        lambda: storage.upload_folder(tmp_path, location),
        lambda: fetch.local_folder(location),
        lambda: fetch.local_folder(Weights(location="x").model_copy(update={"location": location})),
    ):
        with pytest.raises(ConfigError, match="two slashes"):
            attempt()
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("stores")
def test_a_file_where_a_folder_is_needed_is_called_a_file(tmp_path: Path) -> None:
    for folder in (str(tmp_path), "s3://advgrpo/file-not-folder"):
        location = f"{folder}/adapter_model.safetensors"
        storage.write_bytes(location, b"x")
        with pytest.raises(StorageNotFoundError, match="is a file, and a folder") as caught:
            fetch.local_folder(location)
        assert folder in caught.value.repair
        with pytest.raises(WeightsError, match="is a file, and a folder"):
            fetch.local_folder(Weights(location=location))


def test_a_variable_that_another_thread_removes_meanwhile_is_no_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Environment(UserDict[str, str]):
        def __iter__(self) -> Iterator[str]:
            yield from (*self.data, "AWS_SESSION_TOKEN")

    monkeypatch.setattr(os, "environ", Environment({"HOME": str(tmp_path)}))
    monkeypatch.setattr("advgrpo.storage.files._s3_storage", lambda variables: variables)
    assert storage.storage_for("s3://bucket/key") == (("AWS_SESSION_TOKEN", ""),)
    assert redact("text") == "text"
