"""Estimates of a run's memory, work, storage and time, from models without weights."""

from advgrpo.planning.durations import Duration
from advgrpo.planning.parts import Part
from advgrpo.planning.plan import Plan, plan_run
from advgrpo.planning.work import Work

__all__ = ["Duration", "Part", "Plan", "Work", "plan_run"]
