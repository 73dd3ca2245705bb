"""Settings of frozen scorers, one module each: no torch, so that they are valid anywhere."""

from advgrpo.config.scorers.union import ScorerConfig

__all__ = ["ScorerConfig"]
