import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from pydantic import BaseModel

from advgrpo.errors import RatioError
from advgrpo.runtime.processes import run_in_processes
from advgrpo.runtime.remote_call import (
    call,
    load_function,
    read_arguments,
    reference_to,
    write_arguments,
)


class Settings(BaseModel):
    learning_rate: float
    layers: tuple[int, ...]


@dataclass(frozen=True)
class Locations:
    output: Path
    counts: Mapping[str, int]


def write_rank(settings: Settings, locations: Locations, names: Sequence[str]) -> None:
    assert isinstance(settings, Settings)
    assert isinstance(locations, Locations)
    text = f"{settings.learning_rate} {settings.layers} {locations.counts} {names}"
    (locations.output / os.environ["RANK"]).write_text(text, "utf-8")


def fail(message: str) -> None:
    raise RatioError(message, repair="make it 1")


def identity(settings: Settings, locations: Locations | None) -> object:
    return settings, locations


@pytest.mark.usefixtures("warm_python")
def test_ranks_get_models_dataclasses_and_paths(tmp_path: Path) -> None:
    arguments = {
        "settings": Settings(learning_rate=0.1, layers=(1, 2)),
        "locations": Locations(tmp_path, {"images": 3}),
        "names": ["ä", "b"],
    }
    run_in_processes(write_rank, arguments, task="write", processes=2)
    expected = "0.1 (1, 2) {'images': 3} ['ä', 'b']"
    assert [(tmp_path / rank).read_text("utf-8") for rank in "01"] == [expected] * 2


@pytest.mark.usefixtures("warm_python")
def test_the_error_of_a_rank_is_raised_here() -> None:
    with pytest.raises(RatioError, match="the ratio is 2\n  repair: make it 1"):
        run_in_processes(fail, {"message": "the ratio is 2"}, task="fail", processes=1)


def test_a_wrong_argument_is_refused_before_a_process_starts() -> None:
    with pytest.raises(TypeError, match="'message'"):
        run_in_processes(fail, {"reason": "the ratio is 2"}, task="fail", processes=1)


def test_arguments_keep_their_values(tmp_path: Path) -> None:
    given = {"settings": Settings(learning_rate=1e-9, layers=()), "locations": None}
    write_arguments(str(tmp_path), given)
    assert call(identity, read_arguments(str(tmp_path))) == tuple(given.values())


def test_a_function_is_found_by_its_name() -> None:
    assert reference_to(fail) == "tests.runtime.test_remote_call:fail"
    assert load_function(reference_to(fail)) is fail
    with pytest.raises(ValueError, match="cannot import"):
        reference_to(lambda: None)
