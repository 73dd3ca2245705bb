from pathlib import Path

import pytest

from studies.audit import FOUND, UNKNOWN, audit, judged

SOUND = {"name": "sound", "version": "1.0", "vulns": []}
FLAW = {"id": "PYSEC-2026-1", "fix_versions": ["1.1", "2.0"], "aliases": [], "description": ""}
FLAWED = {"name": "flawed", "version": "1.0", "vulns": [FLAW]}
UNFIXED = {"name": "unfixed", "version": "2.0", "vulns": [{**FLAW, "fix_versions": []}]}
UNANSWERED = {"name": "unanswered", "skip_reason": "Dependency not found on PyPI"}


def test_pins_without_an_advisory_are_counted() -> None:
    said, status = judged({"dependencies": [SOUND, SOUND]}, "constraints.txt")
    assert (said, status) == (["2 pins of constraints.txt, none with a known advisory"], 0)


def test_a_pin_with_an_advisory_is_named_with_what_mends_it() -> None:
    said, status = judged({"dependencies": [SOUND, FLAWED, UNFIXED]}, "constraints.txt")
    assert said == [
        "flawed 1.0: PYSEC-2026-1, mended in 1.1, 2.0",
        "unfixed 2.0: PYSEC-2026-1, not mended in any version",
        "repair: raise what is named above in constraints.txt",
    ]
    assert status == FOUND


def test_pins_about_which_nobody_answered_do_not_pass_for_sound() -> None:
    said, status = judged({"dependencies": [SOUND, *[UNANSWERED] * 6]}, "constraints.txt")
    names = ", ".join(["unanswered"] * 5)
    assert said[0] == f"nothing is known about 6 of 7 pins ({names}, ...)"
    assert said[1].startswith("repair: run it where PyPI itself answers")
    assert status == UNKNOWN


def test_an_advisory_counts_more_than_what_is_not_known() -> None:
    said, status = judged({"dependencies": [FLAWED, UNANSWERED]}, "constraints.txt")
    assert len(said) == 4
    assert status == FOUND


def test_without_a_network_one_line_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTPS_PROXY", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    pins = tmp_path / "pins.txt"
    pins.write_text("six==1.17.0\n", encoding="utf-8")
    said, status = audit(pins)
    assert status == UNKNOWN
    assert len(said) == 2
    assert f"nothing is known about any pin of {pins}: requests.exceptions.ProxyError" in said[0]
