import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch

from advgrpo.config import resolve
from advgrpo.evaluation.curves import training_curves
from advgrpo.evaluation.evaluate import Evaluation
from advgrpo.evaluation.examples import Example
from advgrpo.evaluation.report import PhaseCost, RunFacts, render_report, write_report
from advgrpo.records import Comparison, EvaluationReport, Interval

ALIGNMENT = "pocket_judge.attribute_accuracy"
VOID = {"meta", "img", "br", "line", "circle", "polyline"}


def comparison(
    measure: str, *, higher_is_better: bool | None = True, trained_on: bool = False
) -> Comparison:
    return Comparison(
        measure=measure,
        base=Interval(0.5, 0.4, 0.6),
        trained=Interval(0.8, 0.7, 0.9),
        difference=Interval(0.3, 0.2, 0.4),
        higher_is_better=higher_is_better,
        trained_on=trained_on,
    )


def example(prompt: str, side: int = 8) -> Example:
    images = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    return Example(prompt, "spread", 0.5, 0.75, images, images, images)


@pytest.fixture
def evaluation() -> Evaluation:
    report = EvaluationReport(
        (
            comparison("distance.frechet", higher_is_better=False),
            comparison(ALIGNMENT),
            comparison("discriminator.reward", trained_on=True),
            comparison("image.dark_fraction", higher_is_better=None),
        ),
        640,
        alignment=ALIGNMENT,
        distance="distance.frechet",
    )
    return Evaluation(report, (example("a <b>bold</b> & red thing"),))


@pytest.fixture
def facts() -> RunFacts:
    return RunFacts(
        name="pocket run",
        settings=resolve("pocket", []),
        created="1 May 2030",
        phases=[PhaseCost("adversarial training", 143.0, 3840, 1032.0), PhaseCost("rest", 1.0)],
        policy_updates=60,
        lineage={"adapter": "ab" * 32},
    )


HISTORY = [
    {"update": 0.0, "held_out/distance": 20.0},
    {"update": 1.0, "reward/discriminator": -1.0, "reward/discriminator_std_in_group": 0.1},
    {"update": 2.0, "reward/discriminator": float("nan"), "held_out/distance": 2.0},
]


class Balance(HTMLParser):
    """Checks that every element that is opened is closed, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.count = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.count += 1 + len(attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag


def test_the_page_is_balanced_html(evaluation: Evaluation, facts: RunFacts) -> None:
    parser = Balance()

    parser.feed(render_report(evaluation, HISTORY, facts))

    assert parser.open == []
    assert parser.count > 50


def test_the_page_loads_nothing_and_runs_nothing(evaluation: Evaluation, facts: RunFacts) -> None:
    page = render_report(evaluation, HISTORY, facts)

    assert all(uri.startswith("data:image/") for uri in re.findall(r'src="([^"]*)"', page))
    for tag in ("<script", "<link", "href=", "url(", "@import"):
        assert tag not in page


def test_what_a_prompt_says_is_text_and_never_markup(
    evaluation: Evaluation, facts: RunFacts
) -> None:
    page = render_report(evaluation, HISTORY, facts)

    assert "<b>bold</b>" not in page
    assert "a &lt;b&gt;bold&lt;/b&gt; &amp; red thing" in page


def test_the_verdict_comes_first(evaluation: Evaluation, facts: RunFacts) -> None:
    page = render_report(evaluation, HISTORY, facts)
    order = [page.index(text) for text in ("verdict ", "Before and after", "Measures", "Lineage")]

    assert order == sorted(order)


def test_what_the_reward_was_trained_on_stands_apart(
    evaluation: Evaluation, facts: RunFacts
) -> None:
    page = render_report(evaluation, HISTORY, facts)
    _, held_out, rest = re.split("Not trained on|What the reward was trained on", page)

    assert "Attribute accuracy" in held_out
    assert "what it thinks of the images" not in held_out
    assert "what it thinks of the images" in rest


def test_small_images_are_kept_exactly_and_enlarged_pixel_by_pixel(
    evaluation: Evaluation, facts: RunFacts
) -> None:
    small = render_report(evaluation, HISTORY, facts)
    large = render_report(replace(evaluation, examples=(example("x", 256),)), HISTORY, facts)

    assert "data:image/png" in small
    assert "gallery pixelated" in small
    assert "data:image/webp" in large
    assert "gallery pixelated" not in large


def test_cost_lineage_and_settings_are_told(evaluation: Evaluation, facts: RunFacts) -> None:
    page = render_report(evaluation, HISTORY, facts)

    for text in ("2 min 23 s", "3,840", "1,032 MiB", "ab" * 32, "prompts_per_update: 8"):
        assert text in page


def test_what_is_not_known_is_left_out(evaluation: Evaluation, facts: RunFacts) -> None:
    bare = RunFacts(name="bare", settings=facts.settings)
    few = tuple(c for c in evaluation.report.comparisons if not c.trained_on)

    page = render_report(
        Evaluation(replace(evaluation.report, comparisons=few), evaluation.examples), [], bare
    )

    for heading in ("<h2>Training</h2>", "<h2>Cost</h2>", "What the reward was trained on", "Rose"):
        assert heading not in page


def test_curves_leave_out_what_is_not_a_number() -> None:
    sections = training_curves(HISTORY, alignment=ALIGNMENT)

    panels = {panel.title: panel for section in sections for panel in section.panels}
    assert set(panels) == {"Distance to reference images", "Reward: discriminator"}
    assert panels["Reward: discriminator"].legend == (("discriminator", "\N{MINUS SIGN}1"),)


def test_the_report_is_written_as_utf8(
    evaluation: Evaluation, facts: RunFacts, tmp_path: Path
) -> None:
    write_report(tmp_path / "report.html", evaluation, HISTORY, facts)

    text = (tmp_path / "report.html").read_text("utf-8")
    assert text == render_report(evaluation, HISTORY, facts)
    assert text.startswith("<!doctype html>")
