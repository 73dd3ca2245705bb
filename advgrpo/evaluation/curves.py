"""Training curves of the report."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from advgrpo.evaluation.charts import Series, line_chart
from advgrpo.evaluation.formatting import label, number
from advgrpo.records import ALARM_METRIC

History = Sequence[Mapping[str, float]]
"""Metrics by update: each row has `update`, and the metrics of that update."""


@dataclass(frozen=True)
class Panel:
    """One chart with its title and legend."""

    title: str
    note: str
    legend: tuple[tuple[str, str], ...]
    """Name and last value of each curve."""

    chart: Markup


@dataclass(frozen=True)
class Section:
    """A titled group of charts."""

    title: str
    panels: tuple[Panel, ...]


def training_curves(history: History, *, alignment: str) -> tuple[Section, ...]:
    """Draw the curves of a run; metrics that it did not log are omitted.

    Args:
        history: Metrics by update.
        alignment: The metric of prompt alignment.
    """
    # The suffixes belong to diagnostics of a term, such as its spread within a group.
    rewards = {
        name: {label_of(name): name}
        for name in _names(history)
        if name.startswith("reward/") and not name.endswith(("_in_group", "_without_spread"))
    }
    sections = {
        "Metrics that were not trained on": [
            _panel(
                history,
                "Distance to reference images",
                {"held-out prompts": "held_out/distance"},
                logarithmic=True,
            ),
            _panel(
                history,
                "Prompt alignment",
                {"held-out prompts": f"held_out/{alignment}"},
                note=label(alignment),
            ),
            _panel(
                history,
                "Diversity",
                {"within a group": "rollout/diversity_in_group"},
                note="distance between images of one prompt",
            ),
            _panel(
                history,
                "Separation from reference images",
                {"fresh critic": "held_out/order.critic", "reward": "held_out/order.reward"},
                note="share of pairs, reference image ranked first; far lower for a hacked reward",
            ),
            _panel(
                history,
                "Reward hacking",
                {
                    "alarm": ALARM_METRIC,
                    **{name.partition("/")[2].replace("_", " "): name for name in _signs(history)},
                },
                note="1 for an alarm or a sign of collapse",
            ),
        ],
        "Reward and discriminator": [
            *(
                _panel(history, f"Reward: {next(iter(curves))}", curves, note="mean of the rollout")
                for curves in rewards.values()
            ),
            _panel(
                history,
                "Discriminator accuracy",
                {
                    "held-out references and rollout": "discriminator/held_out_accuracy",
                    "separation": "discriminator/separation",
                },
                note="at chance level, accuracy is 0.5 and separation 0",
            ),
            _panel(
                history,
                "Discriminator logits",
                {
                    "generated": "discriminator/generated_logit",
                    "reference": "discriminator/held_out_reference_logit",
                    "margin": "discriminator/margin",
                },
            ),
            _panel(
                history,
                "Calibration error",
                {"discriminator": "discriminator/calibration_error"},
            ),
        ],
        "Policy update": [
            _panel(
                history,
                "Ratio spread",
                {"standard deviation": "policy/ratio_std"},
                note="how far an update moves the policy",
            ),
            _panel(
                history,
                "Clipped",
                {"above": "policy/clipped_above", "below": "policy/clipped_below"},
                note="share of samples",
            ),
            _panel(
                history,
                "Contrast",
                {"velocities": "policy/contrast", "weights": "policy/old_policy_distance"},
                note="relative difference of trained and old policy",
            ),
            _panel(history, "Matching error", {"policy": "policy/matching_error"}),
            _panel(
                history,
                "Gradient norm",
                {"policy": "policy/gradient_norm", "discriminator": "discriminator/gradient_norm"},
            ),
            _panel(history, "Learning rate", {"policy": "policy/learning_rate"}),
            _panel(
                history,
                "Share of the matmul rate",
                {"rollout": "performance/mfu_rollout", "update": "performance/mfu_update"},
                note="0 to 1, without recomputed activations",
            ),
            _panel(history, "Images per second", {"run": "performance/images_per_second"}),
            _panel(
                history,
                "Divergence from the base policy",
                {"policy": "policy/divergence_from_base"},
            ),
        ],
    }
    shown = {title: tuple(p for p in panels if p is not None) for title, panels in sections.items()}
    return tuple(Section(title, panels) for title, panels in shown.items() if panels)


def label_of(name: str) -> str:
    """Return the name of a reward's curve."""
    return name.removeprefix("reward/").replace("_", " ")


def _panel(
    history: History,
    title: str,
    curves: Mapping[str, str],
    *,
    note: str = "",
    logarithmic: bool = False,
) -> Panel | None:
    """Draw a chart of the curves with values; None if there are none."""
    series = [
        Series(name, points) for name, key in curves.items() if (points := _points(history, key))
    ]
    if not series:
        return None
    legend = tuple((one.name, number(one.points[-1][1])) for one in series)
    return Panel(title, note, legend, line_chart(series, logarithmic=logarithmic))


def _points(history: History, key: str) -> list[tuple[float, float]]:
    # Rows lack metrics that are not logged at each update, and NaN cannot be drawn.
    return [
        (float(row["update"]), float(row[key]))
        for row in history
        if key in row and math.isfinite(row[key])
    ]


def _signs(history: History) -> list[str]:
    """Return the signs of collapse that a run showed; most show none."""
    seen = dict.fromkeys(name for row in history for name, value in row.items() if value > 0)
    signs = [name for name in seen if name.startswith("watch/") and name != ALARM_METRIC]
    # A chart has three colours, and the alarm is one of the curves.
    return signs[:2]


def _names(history: History) -> list[str]:
    return list(dict.fromkeys(name for row in history for name in row))
