"""The ratio of present and recorded probabilities: its check and its metrics."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from advgrpo.errors import RatioError
from advgrpo.runtime.process_group import ProcessGroup

CLIPPED_BEFORE_STEP = "policy/clipped_before_step"
"""Metric: share of images outside of the clip range before the first optimizer step."""


def check_ratio(
    values: Mapping[str, Tensor], process_group: ProcessGroup, *, tolerance: float
) -> None:
    """Require that the ratio is 1; every rank must call it.

    Args:
        values: Of a loss of this rank, with `ratio`.
        process_group: The training processes.
        tolerance: Largest accepted |ratio - 1|.

    Raises:
        RatioError: On all ranks, if it is further away on any than is tolerated.
    """
    # Nothing was updated since the rollout, so any difference is a fault of ours or of the
    # numerics, and training on it would teach noise.
    error = _ratio_error([values], process_group)
    # NaN passes: the search after the optimizer step names the tensor that it came from.
    if not math.isinf(error) and error > tolerance:
        raise RatioError(
            f"|ratio - 1| is {error:.2e} before the first optimizer step on a rollout, more "
            f"than training.algorithm.ratio_tolerance={tolerance:g}: "
            "rollout and update do not compute the same policy",
            repair="use one precision, one microbatch size and one compile state for both; images "
            "further away than training.algorithm.clip_range would give no gradient",
        )


def ratio_metrics(
    passes: Sequence[Mapping[str, Tensor]],
    process_group: ProcessGroup,
    *,
    unchanged: int,
    clip_range: float | None,
) -> dict[str, float]:
    """Describe ratios, clipping and the divergence from the base policy; every rank must call it.

    Args:
        passes: Values of this rank's losses, in the order of the backward passes.
        process_group: The training processes.
        unchanged: The first passes, which precede all optimizer steps.
        clip_range: A ratio further than this from 1 may give no gradient; None if nothing is
            clipped by its ratio.
    """
    ratios = torch.cat([values["ratio"] for values in passes])
    mean = process_group.all_reduce_mean(float(ratios.mean()))
    # In two passes around the mean of all ranks: ratios differ from 1 in the last digits, which
    # a difference of squares would cancel.
    variance = process_group.all_reduce_mean(float(((ratios - mean) ** 2).mean()))
    metrics = {
        "policy/ratio_mean": mean,
        "policy/ratio_std": math.sqrt(variance),
        "policy/ratio_error_before_step": _ratio_error(passes[:unchanged], process_group),
    }
    if clip_range is not None:
        before = torch.cat([values["ratio"] for values in passes[:unchanged]])
        # The bounds of the loss, which adds and subtracts in float32, too.
        outside = (before > 1 + clip_range) | (before < 1 - clip_range)
        share = process_group.all_reduce_mean(float(outside.float().mean()))
        metrics[CLIPPED_BEFORE_STEP] = share
    means = ("clipped_above", "clipped_below", "matching_error", "divergence_from_base")
    return metrics | mean_metrics(passes, process_group, names=means)


def mean_metrics(
    passes: Sequence[Mapping[str, Tensor]], process_group: ProcessGroup, *, names: Sequence[str]
) -> dict[str, float]:
    """Average values over passes and ranks; every rank must call it.

    Args:
        passes: Values of this rank's losses, of the same names on all ranks.
        process_group: The training processes.
        names: Of the values; those that the losses do not have are omitted.
    """
    metrics = {}
    # In the order of the names: the reductions are collective.
    for name in names:
        if name in passes[0]:
            average = sum(float(values[name].mean()) for values in passes) / len(passes)
            metrics[f"policy/{name}"] = process_group.all_reduce_mean(average)
    return metrics


def _ratio_error(passes: Sequence[Mapping[str, Tensor]], process_group: ProcessGroup) -> float:
    """Return the largest |ratio - 1| over all ranks; infinity if one is not a number."""
    # Comparisons with NaN are false, so max() may drop it; infinity survives the reductions.
    errors = [float((v["ratio"] - 1).abs().max().nan_to_num(math.inf)) for v in passes]
    return process_group.all_reduce_max(max(errors))
