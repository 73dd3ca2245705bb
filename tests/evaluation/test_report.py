import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch

from advgrpo.config import resolve
from advgrpo.evaluation.costs import PhaseCost
from advgrpo.evaluation.curves import training_curves
from advgrpo.evaluation.formatting import label
from advgrpo.evaluation.report import RunFacts, render_report, write_report
from advgrpo.evaluation.results import Evaluation, Example
from advgrpo.records import (
    Alarm,
    Comparison,
    EvaluationReport,
    GateResult,
    Interval,
    TrainingRecord,
)

ALIGNMENT = "pocket_judge.attribute_accuracy"
VOID = {"meta", "img", "br", "line", "circle", "polyline", "polygon"}


def comparison(
    metric: str, *, higher_is_better: bool | None = True, trained_on: bool = False
) -> Comparison:
    return Comparison(
        metric=metric,
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
    """A parser that checks that every element is closed, in order."""

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


def test_prompts_are_escaped(evaluation: Evaluation, facts: RunFacts) -> None:
    page = render_report(evaluation, HISTORY, facts)

    assert "<b>bold</b>" not in page
    assert "a &lt;b&gt;bold&lt;/b&gt; &amp; red thing" in page


def test_the_verdict_comes_first(evaluation: Evaluation, facts: RunFacts) -> None:
    page = render_report(evaluation, HISTORY, facts)
    order = [page.index(text) for text in ("verdict ", "Before and after", "Metrics", "Lineage")]

    assert order == sorted(order)


def test_metrics_that_the_reward_was_trained_on_are_separate(
    evaluation: Evaluation, facts: RunFacts
) -> None:
    page = render_report(evaluation, HISTORY, facts)
    _, held_out, rest = re.split("Not trained on|>Trained on<", page)

    assert "Attribute accuracy" in held_out
    assert "the trained reward" not in held_out
    assert "the trained reward" in rest


def test_shared_weights_and_missing_values_are_noted_next_to_the_metric(
    evaluation: Evaluation, facts: RunFacts
) -> None:
    first, *others = evaluation.report.comparisons
    report = replace(
        evaluation.report,
        comparisons=(
            replace(first, related="same weights", missing="none for 2 prompts"),
            *others,
        ),
        missing={"ocr.accuracy": "no value for 12 of 12 prompts: it quotes no text"},
    )

    page = render_report(replace(evaluation, report=report), HISTORY, facts)

    assert "lower is better; same weights; none for 2 prompts" in page
    assert f"{label('ocr.accuracy')}: no value for 12 of 12 prompts: it quotes no text." in page
    assert ">Missing<" not in render_report(evaluation, HISTORY, facts)


def test_small_images_are_lossless_and_enlarged_without_interpolation(
    evaluation: Evaluation, facts: RunFacts
) -> None:
    small = render_report(evaluation, HISTORY, facts)
    large = render_report(replace(evaluation, examples=(example("x", 256),)), HISTORY, facts)

    assert "data:image/png" in small
    assert "gallery pixelated" in small
    assert "data:image/webp" in large
    assert "gallery pixelated" not in large


def test_cost_lineage_and_settings_are_shown(evaluation: Evaluation, facts: RunFacts) -> None:
    page = render_report(evaluation, HISTORY, facts)

    for text in ("2 min 23 s", "3,840", "1,032 MiB", "ab" * 32, "prompts_per_update: 8"):
        assert text in page


def test_unknown_facts_are_omitted(evaluation: Evaluation, facts: RunFacts) -> None:
    bare = RunFacts(name="bare", settings=facts.settings)
    few = tuple(c for c in evaluation.report.comparisons if not c.trained_on)

    page = render_report(
        Evaluation(replace(evaluation.report, comparisons=few), evaluation.examples), [], bare
    )

    for heading in ("<h2>Training</h2>", "<h2>Cost</h2>", ">Trained on<", "Largest increase"):
        assert heading not in page


def test_curves_omit_values_that_are_not_finite() -> None:
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


@pytest.fixture
def against_champion(evaluation: Evaluation) -> Evaluation:
    comparisons = tuple(
        replace(
            c, champion=Interval(0.7, 0.6, 0.75), difference_to_champion=Interval(0.1, 0.05, 0.15)
        )
        for c in evaluation.report.comparisons
    )
    one = evaluation.examples[0]
    shown = replace(one, champion=one.base, champion_alignment=0.625)
    return Evaluation(replace(evaluation.report, comparisons=comparisons, champion=3), (shown,))


def test_the_champion_has_its_columns_pictures_and_marks(
    evaluation: Evaluation, against_champion: Evaluation, facts: RunFacts
) -> None:
    without = render_report(evaluation, HISTORY, facts)
    page = render_report(against_champion, HISTORY, facts)
    Balance().feed(page)

    for text in ("champion, version 3", "champion: a &lt;b&gt;", "champion 0.625", "<polygon"):
        assert text in page
        assert text not in without
    assert 'data-name="Trained vs. champion"' in page
    assert "8 differences" in page
    assert "4 differences" in without


def test_better_and_worse_are_also_marked_by_text_and_symbols(
    evaluation: Evaluation, facts: RunFacts
) -> None:
    page = render_report(evaluation, HISTORY, facts)

    assert re.search(r'class="worse">\+0\.30 ✗</span><small>[^<]*<br>worse</small>', page)
    assert re.search(r'class="better">\+0\.30 ✓</span><small>[^<]*<br>better</small>', page)


def test_gates_follow_the_verdict_with_their_reasons(
    evaluation: Evaluation, facts: RunFacts
) -> None:
    gates = (
        GateResult("x at least base", "x", passed=True, reason="it rose by 1"),
        GateResult("y at least base", "y", passed=False, reason="it is missing"),
    )
    page = render_report(evaluation, HISTORY, replace(facts, gates=gates))

    order = ["1 of 2 gates failed", "✓ passed", "it rose by 1", "✗ failed", "it is missing"]
    places = [page.index(text) for text in (*order, "Before and after")]
    assert places == sorted(places)


def test_an_alarm_comes_before_all_numbers(evaluation: Evaluation, facts: RunFacts) -> None:
    alarms = tuple(Alarm(update, "pictures got dark") for update in (40, 42, 44))
    stopped = TrainingRecord(44, alarms[:1], stopped_by_watch=True)
    page = render_report(evaluation, HISTORY, replace(facts, training=stopped))

    assert page.index("At update 40: pictures got dark") < page.index("Distance to reference")
    assert "Training was stopped at that point" in page
    many = render_report(evaluation, HISTORY, replace(facts, training=TrainingRecord(50, alarms)))
    assert "At update 44" in many
    assert "At update 42" not in many
    assert "3 alarms in total; these are the first and the last." in many
    assert "Training continued" in many
    quiet = replace(facts, training=TrainingRecord(alarms=()))
    assert "No signs of reward hacking" in render_report(evaluation, HISTORY, quiet)
    assert "signs of reward hacking" not in render_report(evaluation, HISTORY, facts).lower()


def test_missing_metrics_are_listed_with_the_reason(
    evaluation: Evaluation, facts: RunFacts
) -> None:
    report = replace(evaluation.report, missing={"distance.kernel": "there is only one prompt"})
    page = render_report(replace(evaluation, report=report), HISTORY, facts)

    assert "Kernel distance: there is only one prompt." in page
    assert page.count("there is only one prompt") == 1


def test_the_curves_show_the_signs_of_reward_hacking(
    evaluation: Evaluation, facts: RunFacts
) -> None:
    rows = [
        {"update": 0.0, "held_out/order.critic": 1.0, "held_out/order.reward": 0.9},
        {"update": 2.0, "held_out/order.critic": 0.9, "held_out/order.reward": 0.3}
        | {"watch/alarm": 1.0, "watch/saturated": 0.0, "watch/lost_diversity": 1.0},
    ]
    page = render_report(evaluation, rows, facts)

    for text in ("fresh critic <b>0.9</b>", "reward <b>0.3</b>", "lost diversity <b>1</b>"):
        assert text in page
    assert "saturated" not in page


def test_the_cost_in_money_needs_a_price(evaluation: Evaluation, facts: RunFacts) -> None:
    priced = facts.settings.evaluation.model_copy(
        update={"price_per_hour": 36.0, "currency": "EUR"}
    )
    settings = facts.settings.model_copy(update={"evaluation": priced})
    page = render_report(evaluation, HISTORY, replace(facts, settings=settings))

    assert "1.43 EUR" in page
    assert "EUR" not in render_report(evaluation, HISTORY, facts)
