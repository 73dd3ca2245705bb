"""Adapters and evaluations for registrations."""

from pathlib import Path

from advgrpo.config import Gate, RunConfig, resolve
from advgrpo.evaluation.gates import check_gates
from advgrpo.records import (
    Alarm,
    Comparison,
    EvaluatedPrompt,
    EvaluationReport,
    Interval,
    TrainingRecord,
)
from advgrpo.registry.evidence import Evidence
from advgrpo.registry.registration import register_adapter
from advgrpo.registry.versions import ADAPTER_FILES, RegisteredAdapter

GATE = Gate(metric="judge.score", comparison="at_least", bound=0)


def settings(name: str, *overrides: str) -> RunConfig:
    # A version carries the weights of `package://` locations, which are large.
    base = "policy.weights.location=/weights/pocket"
    return resolve("pocket", [base, f"promotion.registered_model={name}", *overrides])


def write_adapter(folder: Path, mark: str = "") -> Path:
    """A folder with an adapter's files."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ADAPTER_FILES:
        (folder / name).write_text(f"content of {name}{mark}")
    (folder / "optimizer.safetensors").write_text("not for others")
    return folder


def report(gain: float = 0.2, champion: int | None = None) -> EvaluationReport:
    """An evaluation with a gain over the base, and over the champion if there is one."""
    difference = Interval(gain, gain - 0.05, gain + 0.05)
    score = Comparison(
        metric="judge.score",
        base=Interval(0.5, 0.4, 0.6),
        trained=Interval(0.5 + gain, 0.4 + gain, 0.6 + gain),
        difference=difference,
        higher_is_better=True,
        trained_on=False,
        champion=None if champion is None else Interval(0.5, 0.4, 0.6),
        difference_to_champion=None if champion is None else difference,
    )
    return EvaluationReport(
        comparisons=(score,),
        images=8,
        alignment="judge.score",
        distance="judge.score",
        champion=champion,
    )


def evidence(
    gain: float = 0.2,
    *,
    champion: int | None = None,
    gates: tuple[Gate, ...] = (GATE,),
    sample: tuple[EvaluatedPrompt, ...] = (),
) -> Evidence:
    evaluated = report(gain, champion)
    return Evidence(
        report=evaluated,
        gates=gates,
        results=check_gates(gates, evaluated),
        lineage={"prompts.train": "abc", "version.torch": "2.0.0+cpu"},
        training=TrainingRecord(28, (Alarm(28, "pictures got dark"),), stopped_by_watch=True),
        sample=sample,
    )


def register(
    tracking_uri: str,
    config: RunConfig,
    adapter: Path,
    run_id: str,
    proof: Evidence | None = None,
    **others: Path,
) -> RegisteredAdapter:
    return register_adapter(
        adapter,
        settings=config,
        evidence=proof or evidence(),
        run_id=run_id,
        tracking_uri=tracking_uri,
        metrics={"distance": 1.5},
        **others,
    )
