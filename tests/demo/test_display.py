import io

from rich.console import Console

from advgrpo.demo.display import Bars, Lines
from advgrpo.demo.phases import Step

STEP = Step("adversarial training", 3, 60, "updates", 75.0, {"reward": 0.123456, "distance": 4.5})


def _console() -> Console:
    return Console(file=io.StringIO(), width=100)


def _shown(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_without_a_terminal_phases_are_lines() -> None:
    console = _console()
    lines = Lines(console)
    lines.start("train")
    lines.step("train", STEP)
    lines.finish("train", 75)
    assert _shown(console).splitlines() == [
        "Adversarial training ...",
        "  adversarial training: 3/60 updates, reward 0.123, distance 4.5, 1 min 15 s left",
        "Adversarial training: done in 1 min 15 s",
    ]


def test_lines_are_rate_limited_except_for_the_last() -> None:
    console = _console()
    lines = Lines(console)
    for done in range(1, 61):
        lines.step("train", Step("training", done, 60, "updates", None, {}))
    assert _shown(console).splitlines() == ["  training: 1/60 updates", "  training: 60/60 updates"]


def test_bars_show_all_phases_and_the_metrics_of_the_running_one() -> None:
    bars, console = Bars(), _console()
    bars.start("reference-images")
    bars.finish("reference-images", 5)
    bars.start("train")
    bars.step("train", STEP)
    console.print(bars)
    shown = _shown(console)
    for text in ("✓ Reference images", "5.0 s", "reward 0.123", "1 min 15 s left", "Registration"):
        assert text in shown
