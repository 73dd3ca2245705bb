import json
from pathlib import Path

from advgrpo.demo.phases import KEYS, TITLES, PhaseClock, ProgressReader


class Recorder:
    def __init__(self, path: Path) -> None:
        self.seen: list[tuple[str, str, int]] = []
        self.reader = ProgressReader(
            path,
            on_start=lambda task: self.seen.append(("start", task, 0)),
            on_step=lambda task, step: self.seen.append(("step", task, step.done)),
            on_finish=lambda task: self.seen.append(("finish", task, 0)),
        )


def _event(done: int) -> str:
    step = {"phase": "x", "done": done, "total": 2, "unit": "images", "seconds_left": None}
    return json.dumps({**step, "metrics": {}})


def _state(task: str, state: str, process: int = 1) -> str:
    return json.dumps({"task": task, "state": state, "process": process})


def test_steps_belong_to_the_task_that_started_last(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "progress")
    lines = [
        _state("train", "started"),
        _event(1),
        _state("train", "finished"),
    ]
    (tmp_path / "progress").write_text("\n".join(lines) + "\n")
    recorder.reader.read()
    recorder.reader.close()
    assert recorder.seen == [("start", "train", 0), ("step", "train", 1), ("finish", "train", 0)]


def test_the_first_process_of_a_task_decides_its_start_and_end(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "progress")
    states = [(1, "started"), (2, "started"), (3, "started"), (2, "finished"), (1, "finished")]
    lines = [_state("train", state, process) for process, state in states]
    (tmp_path / "progress").write_text("".join(f"{line}\n" for line in lines))
    recorder.reader.read()
    recorder.reader.close()
    assert recorder.seen == [("start", "train", 0), ("finish", "train", 0)]


def test_an_incomplete_line_is_read_once_it_is_complete(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "progress")
    with (tmp_path / "progress").open("a") as file:
        file.write(_event(2)[:20])
        file.flush()
        recorder.reader.read()
        assert recorder.seen == []
        file.write(_event(2)[20:] + "\n")
    recorder.reader.read()
    recorder.reader.close()
    assert recorder.seen == [("step", "", 2)]


def test_a_phase_starts_when_the_one_before_it_ends() -> None:
    clock = PhaseClock({"adversarial_training": 100.0})
    assert clock.finish("servers") < 1
    assert clock.finish("train") >= 100
    assert set(clock.seconds) == {"servers", "adversarial_training"}


def test_every_phase_has_a_title_and_a_key() -> None:
    assert TITLES.keys() == KEYS.keys()
    assert all(key.isidentifier() for key in KEYS.values())
