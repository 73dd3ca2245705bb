from pathlib import Path

from advgrpo.demo.state import resume_run, state_folder


def test_an_interrupted_run_is_resumed(tmp_path: Path) -> None:
    first = resume_run(tmp_path, "digest")
    first.seconds_by_phase["servers"] = 3.0
    first.save(tmp_path)
    again = resume_run(tmp_path, "digest")
    assert again == first
    assert again.is_resumed


def test_a_finished_run_is_followed_by_a_new_one(tmp_path: Path) -> None:
    first = resume_run(tmp_path, "digest")
    first.finished = True
    first.save(tmp_path)
    again = resume_run(tmp_path, "digest")
    assert again.key != first.key
    assert not again.is_resumed


def test_a_run_with_other_settings_is_new(tmp_path: Path) -> None:
    first = resume_run(tmp_path, "digest")
    assert resume_run(tmp_path, "other").key != first.key


def test_a_damaged_state_is_a_new_run(tmp_path: Path) -> None:
    resume_run(tmp_path, "digest")
    (state_folder(tmp_path) / "run.json").write_text("{")
    assert not resume_run(tmp_path, "digest").is_resumed
