"""Readiness checks: what a run on a cluster needs, checked before it starts."""
