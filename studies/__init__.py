"""Experiments that docs/experiments.md reports; not part of the package or the tests."""
