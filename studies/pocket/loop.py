"""The training loop of all pocket models."""

from __future__ import annotations

import copy
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor, nn

logger = logging.getLogger(__name__)

Module = TypeVar("Module", bound=nn.Module)


@dataclass(frozen=True)
class OptimizationSettings:
    """Optimizer settings of one pocket model."""

    steps: int
    batch_size: int
    learning_rate: float
    warmup_steps: int = 50
    weight_decay: float = 0.01
    ema_decay: float = 0.998

    def scaled(self, factor: float) -> OptimizationSettings:
        """Return a copy with `factor` times as many steps."""
        return replace(self, steps=max(1, round(self.steps * factor)))

    def learning_rate_at(self, step: int) -> float:
        """Warm up linearly, then decay to zero along a cosine."""
        warmup = min(1.0, (step + 1) / self.warmup_steps)
        return self.learning_rate * warmup * 0.5 * (1.0 + math.cos(math.pi * step / self.steps))


def minimize(
    module: Module,
    loss: Callable[[], Tensor],
    settings: OptimizationSettings,
    *,
    name: str,
    on_snapshot: Callable[[Module], None] | None = None,
    snapshot_seconds: float = 300.0,
) -> Module:
    """Train a module in place and return its moving average.

    Args:
        module: The trained module; `loss` must read its parameters.
        loss: Draws a batch and returns its mean loss.
        settings: Steps and rates.
        name: Prefix of the log lines.
        on_snapshot: Called with the moving average at intervals.
        snapshot_seconds: Minimum time between two snapshots.

    Returns:
        A copy of the module with averaged weights, in evaluation mode.
    """
    average = copy.deepcopy(module).eval().requires_grad_(False)
    averaged: list[Tensor] = list(average.parameters())
    parameters = list(module.parameters())
    optimizer = torch.optim.AdamW(
        parameters, lr=settings.learning_rate, betas=(0.9, 0.98), weight_decay=settings.weight_decay
    )
    module.train()
    running, started = 0.0, time.monotonic()
    reported, last_snapshot = started, started
    for step in range(settings.steps):
        optimizer.param_groups[0]["lr"] = settings.learning_rate_at(step)
        value = loss()
        value.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        decay = min((1 + step) / (10 + step), settings.ema_decay)
        torch._foreach_lerp_(averaged, [p.detach() for p in parameters], 1.0 - decay)
        running = 0.98 * running + 0.02 * value.item()
        now = time.monotonic()
        if now - reported > 20.0 or step + 1 == settings.steps:
            corrected = running / (1.0 - 0.98 ** (step + 1))
            logger.info("%s step %d of %d: loss %.4f", name, step + 1, settings.steps, corrected)
            reported = now
        if on_snapshot is not None and now - last_snapshot > snapshot_seconds:
            on_snapshot(average)
            last_snapshot = time.monotonic()
    return average
