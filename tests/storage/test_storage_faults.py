"""S3 behind a faulty network: an operation returns the right bytes or an error, in time."""

import gc
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest

from advgrpo.demo.servers import EmbeddedServers
from advgrpo.errors import ConfigError, StorageError
from advgrpo.runtime.environment import environment
from advgrpo.storage.checksums import OPAQUE_ETAGS, DamagedError, checksums
from advgrpo.storage.deadlines import Deadline
from advgrpo.storage.s3 import S3Storage
from advgrpo.storage.s3_parts import ObjectKey, download_parts
from tests.certificates import self_signed
from tests.proxy import MODES, Mode, Proxy

OLD = b"old " * 5_000
NEW = b"new!" * 10_000
SMALL = NEW[:1_000]
PART_BYTES = 16_384
# Generous for a busy machine; a trickled answer would take half an hour.
LONGEST_SECONDS = 30.0
FAULTS = [mode for mode in MODES if mode not in {"pass", "refuse_first"}]


@dataclass
class Wire:
    """A faulty network in front of the server."""

    proxy: Proxy
    hasty: S3Storage
    """A client with few retries and a short deadline."""

    patient: S3Storage
    """A client with more retries."""


# The garbage collector closes the connections of abandoned threads.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(scope="module", autouse=True)
def _exempted() -> None:
    """Exempt what other tests have loaded, which would take most of the time below."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _collected() -> Iterator[None]:
    """Collect within the test rather than in a later one."""
    yield
    gc.collect()


@pytest.fixture(scope="module")
def servers(running_stores: EmbeddedServers) -> dict[str, str]:
    return running_stores.environment()


@pytest.fixture(scope="module")
def direct(servers: dict[str, str]) -> S3Storage:
    """A client without the faulty network."""
    with environment(servers):
        return S3Storage()


@pytest.fixture(scope="module")
def wires(servers: dict[str, str]) -> Iterator[dict[Mode, Wire]]:
    """A network for each fault."""
    made = {}
    for seed, mode in enumerate(FAULTS):
        proxy = Proxy(servers["AWS_ENDPOINT_URL_S3"], seed=seed)
        proxy.delay_seconds = 0.1
        with environment(servers | {"AWS_ENDPOINT_URL_S3": proxy.url}):
            made[mode] = Wire(proxy, server(attempts=2), server(attempts=4, operation_seconds=20))
    yield made
    for wire in made.values():
        wire.proxy.close()


def server(
    *, attempts: int, operation_seconds: float = 3.0, read_timeout_seconds: float = 0.5
) -> S3Storage:
    return S3Storage(
        connect_timeout_seconds=2,
        read_timeout_seconds=read_timeout_seconds,
        attempts=attempts,
        operation_seconds=operation_seconds,
        part_bytes=PART_BYTES,
    )


def read(server: S3Storage, place: str, _folder: Path) -> None:
    assert server.read_bytes(f"{place}/file") == OLD


def download(server: S3Storage, place: str, folder: Path) -> None:
    target = folder / "copy"
    target.write_bytes(b"old content")
    try:
        server.download_file(f"{place}/file", target)
    except StorageError:
        assert target.read_bytes() == b"old content"
        raise
    finally:
        assert [path.name for path in folder.iterdir()] == ["copy"]
    assert target.read_bytes() == OLD


def write(server: S3Storage, place: str, _folder: Path) -> None:
    server.write_bytes(f"{place}/file", SMALL)


def upload(server: S3Storage, place: str, folder: Path) -> None:
    (folder / "source").write_bytes(NEW)
    server.upload_file(folder / "source", f"{place}/file")


def look(server: S3Storage, place: str, _folder: Path) -> None:
    assert server.exists(f"{place}/file")


def listing(server: S3Storage, place: str, _folder: Path) -> None:
    found = server.list_files(place)
    assert {name: state.bytes for name, state in found.items()} == {"file": len(OLD)}


def delete(server: S3Storage, place: str, _folder: Path) -> None:
    server.delete(place)


OPERATIONS = {one.__name__: one for one in (read, download, write, upload, look, listing, delete)}
LEAVES = {"write": SMALL, "upload": NEW, "delete": None}
"""Content after a successful operation, if it differs from before."""


def attempt(operation: str, server: S3Storage, place: str, folder: Path) -> bool:
    """Run an operation; an error must come in time, with location and repair."""
    start = time.monotonic()
    folder.mkdir(parents=True)
    try:
        OPERATIONS[operation](server, place, folder)
        error = None
    except StorageError as caught:
        error = caught
    assert time.monotonic() - start < LONGEST_SECONDS
    assert error is None or (place in error.message and error.repair)
    return error is None


def each_fault(operation: str, check: Callable[[Mode], None], *, without: Mode) -> None:
    """Check all faults at the same time."""
    left_out = {without, "corrupt_answer" if operation in {"listing", "delete"} else without}
    modes = [mode for mode in FAULTS if mode not in left_out]
    with ThreadPoolExecutor(len(modes)) as pool:
        for mode, done in [(mode, pool.submit(check, mode)) for mode in modes]:
            try:
                done.result()
            except BaseException as error:
                error.add_note(f"with the fault {mode}")
                raise


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_persistent_fault_gives_the_right_bytes_or_an_error_in_time(
    operation: str, wires: dict[Mode, Wire], direct: S3Storage, tmp_path: Path
) -> None:
    def check(mode: Mode) -> None:
        place = f"s3://advgrpo/stays/{operation}/{mode}"
        direct.write_bytes(f"{place}/file", OLD)
        wires[mode].proxy.mode = mode
        try:
            succeeded = attempt(operation, wires[mode].hasty, place, tmp_path / mode)
        finally:
            wires[mode].proxy.mode = "pass"
        content = stored_content(direct, place)
        assert content in {OLD, LEAVES.get(operation, OLD)}
        assert not succeeded or content == LEAVES.get(operation, OLD)

    each_fault(operation, check, without="pass")


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_transient_fault_is_overcome(
    operation: str, wires: dict[Mode, Wire], direct: S3Storage, tmp_path: Path
) -> None:
    def check(mode: Mode) -> None:
        place = f"s3://advgrpo/passes/{operation}/{mode}"
        direct.write_bytes(f"{place}/file", OLD)
        wires[mode].proxy.next.append(mode)
        assert attempt(operation, wires[mode].patient, place, tmp_path / mode)
        assert stored_content(direct, place) == LEAVES.get(operation, OLD)

    # A trickling answer is not an error until the deadline.
    each_fault(operation, check, without="trickle_answer")


def stored_content(direct: S3Storage, place: str) -> bytes | None:
    return direct.read_bytes(f"{place}/file") if direct.exists(f"{place}/file") else None


@pytest.mark.filterwarnings("ignore:tzname")
def test_a_damaged_listing_is_an_error_or_a_listing(
    wires: dict[Mode, Wire], direct: S3Storage
) -> None:
    # S3 has no checksum of listings; only HTTPS protects names. Content is always checked.
    wire = wires["corrupt_answer"]
    direct.write_bytes("s3://advgrpo/listed/file", OLD)
    wire.proxy.mode = "corrupt_answer"
    errors = 0
    for _ in range(40):
        try:
            wire.hasty.list_files("s3://advgrpo/listed")
        except StorageError:
            errors += 1
    wire.proxy.mode = "pass"
    assert errors


def test_objects_of_other_programs_are_checked_by_their_etag(
    wires: dict[Mode, Wire], servers: dict[str, str], direct: S3Storage
) -> None:
    wire = wires["corrupt_answer"]
    direct._client.put_object(Bucket="advgrpo", Key="theirs", Body=OLD)
    wire.proxy.mode = "corrupt_answer"
    with pytest.raises(StorageError, match="its MD5 is not its ETag") as caught:
        wire.hasty.read_bytes("s3://advgrpo/theirs")
    assert "use https" in caught.value.repair
    behind = {"AWS_ENDPOINT_URL_S3": wire.proxy.url, OPAQUE_ETAGS: "true"}
    with environment(servers | behind):
        assert server(attempts=1).read_bytes("s3://advgrpo/theirs") != OLD
    wire.proxy.mode = "pass"
    assert wire.hasty.read_bytes("s3://advgrpo/theirs") == OLD


def test_an_object_that_differs_from_its_checksum_is_refused(
    direct: S3Storage, tmp_path: Path
) -> None:
    # As from a server with a bad disk, whose metadata is intact.
    direct._client.put_object(
        Bucket="advgrpo", Key="rotten", Body=b"new", Metadata=checksums([b"old"]).metadata
    )
    with pytest.raises(StorageError, match=r"rotten .*its SHA-256 is not the one that was written"):
        direct.download_file("s3://advgrpo/rotten", tmp_path / "copy")
    assert not list(tmp_path.iterdir())


def test_a_large_file_is_copied_in_parts(wires: dict[Mode, Wire], tmp_path: Path) -> None:
    wire = wires["corrupt_answer"]
    (tmp_path / "large").write_bytes(NEW)
    before = wire.proxy.requests
    wire.patient.upload_file(tmp_path / "large", "s3://advgrpo/large")
    parts = -(-len(NEW) // PART_BYTES)
    assert wire.proxy.requests - before == parts + 2
    wire.patient.download_file("s3://advgrpo/large", tmp_path / "copy")
    assert wire.proxy.requests - before == 2 * parts + 3
    assert (tmp_path / "copy").read_bytes() == NEW


class _ChangedWhileRead:
    """A server whose object changes after the request for its first part, which is slow."""

    def __init__(self) -> None:
        self.reading, self.proceed = threading.Event(), threading.Event()

    def get_object(self, *, Range: str, **_place: str) -> dict[str, Any]:  # noqa: N803 - boto3's
        if Range.startswith("bytes=0-"):
            return {"ETag": "old", "ContentLength": 4, "Body": self}
        assert self.reading.wait(10)
        return {"ETag": "new", "ContentLength": 4, "Body": self}

    def read(self, _size: int) -> bytes:
        is_first = not self.reading.is_set()
        self.reading.set()
        assert self.proceed.wait(10)
        return b"late" if is_first else b""

    def close(self) -> None:
        """There is no connection."""


def test_a_late_part_of_an_abandoned_download_is_not_written(tmp_path: Path) -> None:
    server, target = _ChangedWhileRead(), tmp_path / "file"
    target.touch()
    whole = {"ETag": "old", "ContentLength": 8}
    with pytest.raises(DamagedError):
        download_parts(cast("Any", server), ObjectKey("b", "k"), target, whole, 4, Deadline(60))
    server.proceed.set()
    for thread in threading.enumerate():
        if thread.name == "storage":
            thread.join(10)
    assert target.read_bytes() == b""


def test_an_abandoned_operation_sends_no_further_requests(wires: dict[Mode, Wire]) -> None:
    wire = wires["slow"]
    wire.proxy.mode, wire.proxy.delay_seconds = "slow", 1.0
    with environment({}):
        impatient = wire.hasty
        impatient._operation_seconds = 0.3
        with pytest.raises(StorageError, match="deadline exceeded"):
            impatient.exists("s3://advgrpo/slow")
    requests = wire.proxy.requests
    time.sleep(2.0)
    assert wire.proxy.requests == requests
    wire.proxy.mode, impatient._operation_seconds = "pass", 3.0


def test_a_certificate_is_verified_with_the_configured_authority(
    servers: dict[str, str], tmp_path: Path
) -> None:
    certificate, context = self_signed(tmp_path)
    proxy = Proxy(servers["AWS_ENDPOINT_URL_S3"], tls=context)
    try:
        secured = servers | {"AWS_ENDPOINT_URL_S3": proxy.url}
        with environment(secured):
            with pytest.raises(StorageError, match="certificate verify failed") as caught:
                server(attempts=1).list_files("s3://advgrpo/secured")
            assert "AWS_CA_BUNDLE" in caught.value.repair
        with environment(secured | {"AWS_CA_BUNDLE": str(certificate)}):
            server(attempts=1).write_bytes("s3://advgrpo/secured", OLD)
            assert server(attempts=1).read_bytes("s3://advgrpo/secured") == OLD
        missing = str(tmp_path / "none.pem")
        with (
            environment(secured | {"AWS_CA_BUNDLE": missing}),
            pytest.raises(StorageError, match="AWS_CA_BUNDLE"),
        ):
            server(attempts=1).list_files("s3://advgrpo/secured")
    finally:
        proxy.close()


def test_an_address_with_a_password_is_refused_and_not_shown(servers: dict[str, str]) -> None:
    with environment(servers | {"AWS_ENDPOINT_URL_S3": "http://me:hidden@127.0.0.1:9"}):
        with pytest.raises(ConfigError, match="AWS_ENDPOINT_URL_S3") as caught:
            S3Storage()
        assert "hidden" not in str(caught.value)
