from pathlib import Path

import pytest

from advgrpo.runtime.timing import Elapsed, read_elapsed, record_elapsed


def test_what_attempts_took_is_added_up(tmp_path: Path) -> None:
    file = tmp_path / "cost.json"
    file.write_text('{"seconds": 100.0, "processes": 1}')

    with record_elapsed(str(file), processes=4, images=8):
        pass

    spent = read_elapsed(str(file))
    assert spent is not None
    assert 100 < spent.seconds < 110
    assert (spent.processes, spent.images, spent.complete) == (4, 8, True)


def test_an_attempt_that_fails_counts_but_completes_nothing(tmp_path: Path) -> None:
    file = str(tmp_path / "cost.json")

    with pytest.raises(KeyError), record_elapsed(file, processes=1, images=8):
        raise KeyError

    spent = read_elapsed(file)
    assert spent is not None
    assert spent.seconds > 0
    assert not spent.complete


def test_looking_at_what_is_complete_adds_nothing(tmp_path: Path) -> None:
    file = str(tmp_path / "cost.json")
    with record_elapsed(file, processes=2, images=8, once=True):
        pass
    before = read_elapsed(file)

    with record_elapsed(file, processes=1, images=9, once=True):
        pass

    assert read_elapsed(file) == before


@pytest.mark.parametrize("content", ["", "[]", '{"hours": 1}'])
def test_a_damaged_note_is_none(tmp_path: Path, content: str) -> None:
    (tmp_path / "cost.json").write_text(content)

    assert read_elapsed(str(tmp_path / "cost.json")) is None
    assert read_elapsed(str(tmp_path / "absent.json")) is None
    assert Elapsed().seconds == 0
