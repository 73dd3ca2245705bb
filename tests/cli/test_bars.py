import io
import os
import pty
import subprocess
import sys
from pathlib import Path

from rich.console import Console

from advgrpo.cli.bars import _Display

PROGRAM = """
import subprocess, sys
from advgrpo.cli.bars import progress_bars
from advgrpo.telemetry.logging import configure
from advgrpo.telemetry.progress import Progress

configure()
with progress_bars():
    progress = Progress("drawing", 3, "images")
    progress.advance(2, {"reward": 0.5})
    subprocess.run([sys.executable, "-c", "import sys; print('from a rank', file=sys.stderr)"])
    progress.advance()
print("result", flush=True)
print("afterwards", file=sys.stderr)
"""


def test_a_terminal_shows_bars_below_the_lines_of_all_processes(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    results = tmp_path / "results"
    with results.open("wb") as file:
        process = subprocess.Popen([sys.executable, "-c", PROGRAM], stderr=theirs, stdout=file)
    os.close(theirs)
    shown = b""
    # Reading fails once no process has the terminal open.
    while True:
        try:
            shown += os.read(ours, 65536)
        except OSError:
            break
    assert process.wait() == 0, shown
    text = shown.decode()
    assert "from a rank" in text
    assert "drawing" in text
    assert "3/3" in text
    # As lines of a log it would be shown twice.
    assert "drawing: 2/3 images" not in text
    assert text.rstrip().endswith("afterwards")
    assert results.read_text() == "result\n"


def test_without_a_terminal_progress_is_lines_without_control_characters() -> None:
    ended = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, check=True)
    assert b"\x1b" not in ended.stderr
    assert b"drawing: 3/3 images" in ended.stderr


def test_a_character_that_is_split_over_two_reads_is_shown(tmp_path: Path) -> None:
    screen, (reading, writing) = io.StringIO(), os.pipe()
    (tmp_path / "progress").touch()
    display = _Display(Console(file=screen), tmp_path / "progress", reading)
    text = "größer\nund länger".encode()
    for part in (text[:3], text[3:12], text[12:]):
        os.write(writing, part)
        display._read_pipe()
    os.close(writing)
    display.drain()
    os.close(reading)
    assert screen.getvalue() == "größer\nund länger\n"
