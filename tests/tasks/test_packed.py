from pathlib import Path

import pytest

from advgrpo.errors import StorageError
from advgrpo.storage import list_files, write_bytes
from advgrpo.stores import EmbeddedStores
from advgrpo.tasks.packed import kept_at, unpacked


@pytest.fixture
def location(stores: EmbeddedStores, tmp_path: Path) -> str:  # noqa: ARG001 - must run
    return f"s3://advgrpo/packed/{tmp_path.name}"


def _content(folder: Path) -> dict[str, str]:
    return {p.relative_to(folder).as_posix(): p.read_text() for p in folder.rglob("*.txt")}


def test_many_files_become_one_object_and_come_back(location: str, tmp_path: Path) -> None:
    with kept_at(location, tmp_path / "work"):
        (tmp_path / "work" / "sub").mkdir()
        for number in range(50):
            (tmp_path / "work" / "sub" / f"{number}.txt").write_text(str(number))
    assert len(list_files(location)) == 1
    assert _content(unpacked(location)) == _content(tmp_path / "work")


def test_a_later_run_finds_what_an_earlier_one_saved_and_adds_to_it(
    location: str, tmp_path: Path
) -> None:
    with kept_at(location, tmp_path / "first"):
        (tmp_path / "first" / "kept.txt").write_text("old")
        (tmp_path / "first" / "changed.txt").write_text("old")
    with kept_at(location, tmp_path / "second"):
        assert _content(tmp_path / "second") == {"kept.txt": "old", "changed.txt": "old"}
        (tmp_path / "second" / "changed.txt").write_text("newer")
    assert _content(unpacked(location)) == {"kept.txt": "old", "changed.txt": "newer"}


def test_an_interrupted_run_keeps_what_it_had(location: str, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), kept_at(location, tmp_path / "work"):
        (tmp_path / "work" / "done.txt").write_text("done")
        raise KeyboardInterrupt
    assert _content(unpacked(location)) == {"done.txt": "done"}


def test_files_are_saved_while_the_work_goes_on(location: str, tmp_path: Path) -> None:
    with kept_at(location, tmp_path / "work", seconds_between=0.05):
        (tmp_path / "work" / "early.txt").write_text("early")
        while not list_files(location):
            pass


def test_nothing_new_saves_nothing(location: str, tmp_path: Path) -> None:
    with kept_at(location, tmp_path / "work"):
        (tmp_path / "work" / "a.txt").write_text("a")
    with kept_at(location, tmp_path / "work"):
        pass
    assert len(list_files(location)) == 1


def test_a_damaged_part_is_named(location: str) -> None:
    write_bytes(f"{location}/part-000000-x.tar", b"no archive" * 100)
    with pytest.raises(StorageError, match=r"part-000000-x\.tar of a packed folder is damaged"):
        unpacked(location)


def test_a_plain_folder_is_used_where_it_lies(tmp_path: Path) -> None:
    assert unpacked(str(tmp_path)) == tmp_path
