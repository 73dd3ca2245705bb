from pathlib import Path

import pytest

from advgrpo.runtime.timing import Elapsed, read_elapsed, record_elapsed


def test_the_time_of_attempts_is_added_up(tmp_path: Path) -> None:
    file = tmp_path / "cost.json"
    file.write_text('{"seconds": 100.0, "processes": 1}')

    with record_elapsed(str(file), processes=4, images=8):
        pass

    elapsed = read_elapsed(str(file))
    assert elapsed is not None
    assert 100 < elapsed.seconds < 110
    assert (elapsed.processes, elapsed.images, elapsed.complete) == (4, 8, True)


def test_an_attempt_that_fails_counts_but_completes_nothing(tmp_path: Path) -> None:
    file = str(tmp_path / "cost.json")

    with pytest.raises(KeyError), record_elapsed(file, processes=1, images=8):
        raise KeyError

    elapsed = read_elapsed(file)
    assert elapsed is not None
    assert elapsed.seconds > 0
    assert not elapsed.complete


def test_an_attempt_after_a_complete_one_adds_nothing(tmp_path: Path) -> None:
    file = str(tmp_path / "cost.json")
    with record_elapsed(file, processes=2, images=8, once=True):
        pass
    before = read_elapsed(file)

    with record_elapsed(file, processes=1, images=8, once=True):
        pass

    assert read_elapsed(file) == before


def test_a_result_that_grows_costs_more(tmp_path: Path) -> None:
    file = str(tmp_path / "cost.json")
    for images in (8, 9):
        with record_elapsed(file, processes=2, images=images, once=True):
            pass
    record = read_elapsed(file)
    assert record is not None
    assert record.images == 9


@pytest.mark.parametrize("content", ["", "[]", '{"hours": 1}'])
def test_a_damaged_record_is_none(tmp_path: Path, content: str) -> None:
    (tmp_path / "cost.json").write_text(content)

    assert read_elapsed(str(tmp_path / "cost.json")) is None
    assert read_elapsed(str(tmp_path / "absent.json")) is None
    assert Elapsed().seconds == 0
