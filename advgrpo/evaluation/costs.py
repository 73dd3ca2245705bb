"""Cost of a run by phase, and cost per gain."""

from collections.abc import Sequence
from dataclasses import dataclass

from advgrpo.evaluation.formatting import label, number
from advgrpo.evaluation.verdict import change
from advgrpo.records import Comparison, EvaluationReport
from advgrpo.telemetry.formatting import format_duration

POINT = 0.01
"""One point of prompt alignment."""


@dataclass(frozen=True)
class PhaseCost:
    """Resources that one phase of a run used."""

    name: str
    seconds: float | None
    """Wall-clock time of all attempts; None if unknown."""

    images: int | None = None
    """Images that were generated, if any."""

    peak_memory_mib: float | None = None
    """Largest resident memory of its largest process."""

    processes: int = 1
    """Number of processes; on GPUs, one each."""

    on_gpu: bool = False
    note: str = ""
    """Why the time is unknown."""

    @property
    def hours(self) -> float:
        """Hours of all processes together; 0 if the time is unknown."""
        return (self.seconds or 0.0) * self.processes / 3600

    @property
    def unit(self) -> str:
        """Unit of its hours."""
        return "GPU-hours" if self.on_gpu else "CPU-hours"


@dataclass(frozen=True)
class Price:
    """Price of an hour of one GPU, or of one process if no phase of the run used a GPU."""

    per_hour: float
    currency: str

    def of(self, hours: float) -> str:
        """Return the cost of hours with its currency."""
        cost = self.per_hour * hours
        # Small costs keep significant digits: 0.00 would look free.
        return f"{cost:,.2f} {self.currency}" if cost >= 0.1 else f"{number(cost)} {self.currency}"


@dataclass(frozen=True)
class CostRow:
    """One row of the table of costs; unknown cells are empty."""

    name: str
    note: str
    time: str
    hours: str
    images: str
    memory: str
    money: str
    share: float
    """Share of the longest phase's time, in [0, 1]."""


def cost_rows(phases: Sequence[PhaseCost], price: Price | None) -> list[CostRow]:
    """Return a row for each phase, and the total in the last one."""
    if not phases:
        return []
    # 1.0 avoids a division by zero if no time is known.
    longest = max((phase.seconds or 0.0 for phase in phases), default=0.0) or 1.0
    priced = _priced(phases)
    rows = [_row(phase, price if phase in priced else None, longest) for phase in phases]
    seconds = sum(phase.seconds or 0.0 for phase in phases)
    # GPU-hours and CPU-hours are not comparable, so each unit has its own sum.
    hours = {unit: _hours(phases, unit) for unit in dict.fromkeys(phase.unit for phase in phases)}
    images = sum(phase.images or 0 for phase in phases)
    notes = []
    if any(phase.seconds is None for phase in phases):
        notes.append("without the phases whose time is unknown")
    if price is not None and _sum_hours(priced) < sum(hours.values()):
        notes.append("the cost is that of the GPU-hours alone")
    total = CostRow(
        name="Total",
        note="; ".join(notes),
        time=format_duration(seconds),
        hours=", ".join(f"{number(amount)} {unit}" for unit, amount in hours.items()),
        images=f"{images:,}",
        memory="",
        money="" if price is None else price.of(_sum_hours(priced)),
        share=0.0,
    )
    return [*rows, total]


def cost_per_gain(
    report: EvaluationReport, phases: Sequence[PhaseCost], price: Price | None
) -> list[str]:
    """Return the cost of each percent of distance and each point of alignment gained.

    A gain whose interval includes zero may be chance, so it has no cost per unit.
    """
    # The time of all phases may be unknown.
    if not any(phase.seconds for phase in phases):
        return []
    distance, alignment = (report.comparison(m) for m in (report.distance, report.alignment))
    # Positive if the distance decreased.
    percent = -100 * distance.difference.mean / distance.base.mean if distance.base.mean else 0.0
    points = alignment.difference.mean / POINT
    return [
        _gain(distance, percent, "percent of distance to the reference images", phases, price),
        _gain(alignment, points, f"point ({POINT:g}) of {label(alignment.metric)}", phases, price),
    ]


def _gain(
    comparison: Comparison,
    gained: float,
    unit: str,
    phases: Sequence[PhaseCost],
    price: Price | None,
) -> str:
    name = label(comparison.metric)
    if change(comparison) != "better" or gained <= 0:
        return f"{name}: no significant gain, so there is no cost per gain."
    # A phase without a known time adds no hours, so it must not add its unit either.
    units = list(dict.fromkeys(phase.unit for phase in phases if phase.seconds))
    hours = _sum_hours(phases) / gained
    amount = f"{number(hours)} {units[0] if len(units) == 1 else 'GPU- and CPU-hours'}"
    money = "" if price is None else f", {price.of(_sum_hours(_priced(phases)) / gained)}"
    return f"{name}: {amount}{money} per {unit}; {number(gained)} gained in total."


def _priced(phases: Sequence[PhaseCost]) -> list[PhaseCost]:
    """Return the phases that a price is for: those on GPUs or, if there are none, all."""
    # An hour of a CPU costs a small part of one of a GPU, so both cannot have one price.
    return [phase for phase in phases if phase.on_gpu] or list(phases)


def _sum_hours(phases: Sequence[PhaseCost]) -> float:
    return sum(phase.hours for phase in phases)


def _hours(phases: Sequence[PhaseCost], unit: str) -> float:
    return _sum_hours([phase for phase in phases if phase.unit == unit])


def _row(phase: PhaseCost, price: Price | None, longest: float) -> CostRow:
    known = phase.seconds is not None
    processes = f"{phase.processes} processes" if phase.processes > 1 else ""
    return CostRow(
        name=phase.name,
        note=phase.note or processes,
        time=format_duration(phase.seconds) if phase.seconds is not None else "",
        hours=f"{number(phase.hours)} {phase.unit}" if known else "",
        images="" if phase.images is None else f"{phase.images:,}",
        memory="" if phase.peak_memory_mib is None else f"{phase.peak_memory_mib:,.0f} MiB",
        money=price.of(phase.hours) if known and price is not None else "",
        share=(phase.seconds or 0.0) / longest,
    )
