import gzip
import io
import tarfile
from pathlib import Path

import pytest

from advgrpo.demo.servers import EmbeddedServers
from advgrpo.errors import StorageError
from advgrpo.storage import write_bytes
from advgrpo.storage.archives import extract


@pytest.fixture
def location(stores: EmbeddedServers, tmp_path: Path) -> str:  # noqa: ARG001 - must run
    return f"s3://advgrpo/packed/{tmp_path.name}"


def _part(**files: str) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name, text in files.items():
            header = tarfile.TarInfo(f"sub/{name}.txt")
            header.size = len(text)
            archive.addfile(header, io.BytesIO(text.encode()))
    return packed.getvalue()


def test_parts_are_merged_and_a_later_one_wins(location: str) -> None:
    write_bytes(f"{location}/part-000000.tar", _part(kept="old", changed="old"))
    write_bytes(f"{location}/part-000001.tar", _part(changed="newer"))
    folder = extract(location)
    content = {p.relative_to(folder).as_posix(): p.read_text() for p in folder.rglob("*.txt")}
    assert content == {"sub/kept.txt": "old", "sub/changed.txt": "newer"}


def test_a_damaged_part_is_named(location: str) -> None:
    write_bytes(f"{location}/part-000000-x.tar", b"no archive" * 100)
    with pytest.raises(StorageError, match=r"part-000000-x\.tar is damaged"):
        extract(location)


def test_a_part_that_cannot_be_extracted_is_named_by_its_location(location: str) -> None:
    # The second file has the first one as its folder.
    write_bytes(f"{location}/part-000000-x.tar", _part(**{"a": "", "a.txt/b": ""}))
    with pytest.raises(StorageError, match=rf"cannot extract {location}/part-000000-x\.tar: "):
        extract(location)


@pytest.mark.parametrize(
    ("name", "kind"),
    [("../out.txt", tarfile.REGTYPE), ("/tmp/out.txt", tarfile.REGTYPE), ("x", tarfile.SYMTYPE)],
)
def test_entries_outside_of_the_folder_are_refused(location: str, name: str, kind: bytes) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        header = tarfile.TarInfo(name)
        header.type, header.linkname = kind, "/etc"
        archive.addfile(header)
    write_bytes(f"{location}/part-000000-x.tar", packed.getvalue())
    with pytest.raises(StorageError, match=f"{name} is not a plain file inside the archive"):
        extract(location)


def _sparse() -> bytes:
    """An archive of 1 kB with a sparse file of 1 GiB."""
    header = bytearray(tarfile.TarInfo("zeros").tobuf(tarfile.GNU_FORMAT))
    header[156:157] = tarfile.GNUTYPE_SPARSE
    header[483:495] = b"%011o\0" % 2**30
    header[148:156] = b"%06o\0 " % tarfile.calc_chksums(bytes(header))[0]
    return bytes(header) + bytes(1024)


@pytest.mark.parametrize("bomb", [_sparse(), gzip.compress(_part(zeros="0" * 10**6))])
def test_a_decompression_bomb_is_refused(location: str, bomb: bytes) -> None:
    write_bytes(f"{location}/part-000000-x.tar", bomb)
    with pytest.raises(StorageError, match=r"part-000000-x\.tar is damaged"):
        extract(location)


def test_a_plain_folder_is_used_in_place(tmp_path: Path) -> None:
    assert extract(str(tmp_path)) == tmp_path
