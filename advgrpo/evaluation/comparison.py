"""Comparison of base and trained model by each metric."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from advgrpo.evaluation.bootstrap import Bootstrap
from advgrpo.evaluation.results import REWARD, STATISTICS, MeasuredImages, mean_by_prompt
from advgrpo.models.scorers.distance import (
    CMMD_SCALE,
    Kernel,
    KernelSums,
    cubic_kernel,
    frechet_distance,
    gaussian_kernel,
)
from advgrpo.models.scorers.diversity import in_group_distance
from advgrpo.models.scorers.manifold import enough_images, manifold_values
from advgrpo.records import Comparison

FRECHET = "distance.frechet"
KERNEL = "distance.kernel"
CMMD = "distance.cmmd"
MANIFOLD = "manifold"
DIVERSITY = "diversity.in_group"


@dataclass(frozen=True)
class MeasuredSets:
    """Metrics of both models, for the same prompts and seeds in the same order, and references."""

    base: MeasuredImages
    trained: MeasuredImages
    reference: MeasuredImages


def compare(
    sets: MeasuredSets,
    bootstrap: Bootstrap,
    *,
    trained_on: Collection[str],
    related: Mapping[str, str],
    missing: Mapping[str, str],
) -> tuple[Comparison, ...]:
    """Compare two models by all metrics.

    Args:
        sets: Metrics and features of the images.
        bootstrap: Resamples of the prompts.
        trained_on: Names of the scorers that the run's reward was trained on.
        related: What other metrics share with the reward, by metric or by scorer.
        missing: Why a metric has no value for some prompts, by metric.

    Returns:
        Distances, then nearest-neighbour metrics, then each metric of single images, then
        diversity. Omitted are kernel distances if there is only one prompt, diversity if a prompt
        has only one image, nearest-neighbour metrics if there are too few images, and metrics
        without any value.
    """
    comparisons = [_frechet(sets, bootstrap)]
    if bootstrap.counts.shape[1] > 1:
        comparisons.append(
            _kernel_distance(KERNEL, cubic_kernel, lambda images: images.features, sets, bootstrap)
        )
        if sets.reference.clip_features is not None:
            comparisons.append(
                _kernel_distance(
                    CMMD, gaussian_kernel, _clip_features, sets, bootstrap, scale=CMMD_SCALE
                )
            )
    comparisons += _manifold(sets, bootstrap)
    for metric in sets.base.values:
        scorer = metric.partition(".")[0]
        if sets.base.by_prompt(metric).isnan().all():
            continue
        comparisons.append(
            _means(
                metric,
                sets.base.by_prompt(metric),
                sets.trained.by_prompt(metric),
                sets.reference.by_prompt(metric),
                bootstrap,
                # Scorers return values of which higher is better, as their protocol requires.
                higher_is_better=None if scorer == STATISTICS else True,
                trained_on=metric == REWARD or scorer in trained_on,
            )
        )
    base, trained = _diversity(sets.base), _diversity(sets.trained)
    if base is not None and trained is not None:
        comparisons.append(
            _means(
                DIVERSITY,
                base,
                trained,
                _diversity(sets.reference),
                bootstrap,
                higher_is_better=None,
                trained_on=False,
            )
        )
    return tuple(
        replace(
            comparison,
            related=_shared_with_reward(comparison, related),
            missing=missing.get(comparison.metric, ""),
        )
        for comparison in comparisons
    )


def _shared_with_reward(comparison: Comparison, related: Mapping[str, str]) -> str:
    """Return what a metric shares with the reward; empty if the reward was trained on it."""
    family = comparison.metric.partition(".")[0]
    shared = related.get(comparison.metric, related.get(family, ""))
    return "" if comparison.trained_on else shared


def _means(
    metric: str,
    base: Float[Tensor, "prompt"],
    trained: Float[Tensor, "prompt"],
    reference: Float[Tensor, "prompt"] | None,
    bootstrap: Bootstrap,
    *,
    higher_is_better: bool | None,
    trained_on: bool,
) -> Comparison:
    return Comparison(
        metric=metric,
        # The mean of prompts, not of images, because the bootstrap resamples prompts.
        base=bootstrap.interval(float(base.nanmean()), bootstrap.means(base)),
        trained=bootstrap.interval(float(trained.nanmean()), bootstrap.means(trained)),
        difference=bootstrap.interval(
            # The mean of the pairwise differences: NaN in either model removes the prompt from
            # both.
            float((trained - base).nanmean()),
            bootstrap.means(trained - base),
        ),
        higher_is_better=higher_is_better,
        trained_on=trained_on,
        reference=None if reference is None else float(reference.nanmean()),
    )


def _diversity(images: MeasuredImages) -> Float[Tensor, "prompt"] | None:
    groups = [
        images.features[images.prompts == prompt] for prompt in range(int(images.prompts.max()) + 1)
    ]
    if min(len(group) for group in groups) < 2:
        return None
    return torch.cat([in_group_distance(group[None]) for group in groups])


def _frechet(sets: MeasuredSets, bootstrap: Bootstrap) -> Comparison:
    reference = sets.reference

    # A resample repeats prompts, so it repeats the reference images of those prompts as well.
    def resample(images: MeasuredImages) -> Tensor:
        return bootstrap.each(
            lambda counts: frechet_distance(
                images.features,
                reference.features,
                generated_weights=counts[images.prompts],
                reference_weights=counts[reference.prompts],
            )
        )

    return _distances(
        FRECHET,
        frechet_distance(sets.base.features, reference.features),
        frechet_distance(sets.trained.features, reference.features),
        resample(sets.base),
        resample(sets.trained),
        bootstrap,
        reference=_between_halves(
            reference, lambda half, other: frechet_distance(half.features, other.features)
        ),
    )


def _kernel_distance(
    metric: str,
    kernel: Kernel,
    features: Callable[[MeasuredImages], Tensor],
    sets: MeasuredSets,
    bootstrap: Bootstrap,
    *,
    scale: float = 1.0,
) -> Comparison:
    everything = torch.ones(1, bootstrap.counts.shape[1], dtype=torch.float64)

    def sums(images: MeasuredImages, others: MeasuredImages) -> KernelSums:
        return KernelSums.between(
            features(images), images.prompts, features(others), others.prompts, kernel=kernel
        )

    def distances(images: MeasuredImages) -> tuple[float, Tensor]:
        """Return the distance of all prompts, and that of each resample."""
        between = sums(images, sets.reference)
        of_all, of_each = between.distances(everything), between.distances(bootstrap.counts)
        return scale * of_all.item(), scale * of_each

    base, base_resampled = distances(sets.base)
    trained, trained_resampled = distances(sets.trained)
    return _distances(
        metric,
        base,
        trained,
        base_resampled,
        trained_resampled,
        bootstrap,
        reference=_between_halves(
            sets.reference,
            lambda half, other: scale * sums(half, other).distances(everything).item(),
        ),
    )


def _clip_features(images: MeasuredImages) -> Tensor:
    assert images.clip_features is not None
    return images.clip_features


def _manifold(sets: MeasuredSets, bootstrap: Bootstrap) -> list[Comparison]:
    """Compare the nearest-neighbour metrics; empty if the sets are too small."""
    sizes = (len(sets.base.prompts), len(sets.reference.prompts))
    if not enough_images(*sizes):
        return []
    base = _manifold_by_prompt(sets.base, sets.reference)
    trained = _manifold_by_prompt(sets.trained, sets.reference)
    # Two halves of the reference images show what a perfect model could reach.
    halves = _manifold_of_halves(sets.reference)
    return [
        _means(
            f"{MANIFOLD}.{name}",
            values,
            trained[name],
            halves.get(name),
            bootstrap,
            higher_is_better=True,
            trained_on=False,
        )
        for name, values in base.items()
    ]


def _manifold_by_prompt(images: MeasuredImages, reference: MeasuredImages) -> dict[str, Tensor]:
    values = manifold_values(images.features, reference.features)
    return {
        "precision": mean_by_prompt(values.precision, images.prompts),
        # Recall and coverage count reference images, so their prompts are those of the references.
        "recall": mean_by_prompt(values.recall, reference.prompts),
        "density": mean_by_prompt(values.density, images.prompts),
        "coverage": mean_by_prompt(values.coverage, reference.prompts),
    }


def _manifold_of_halves(reference: MeasuredImages) -> dict[str, Tensor]:
    """Compare every other image of each prompt with the rest; empty if there are too few."""
    if torch.bincount(reference.prompts).min() < 2:
        return {}
    half, other = reference.every_other(0), reference.every_other(1)
    if not enough_images(len(half.prompts), len(other.prompts)):
        return {}
    return _manifold_by_prompt(half, other)


def _distances(
    metric: str,
    base: float,
    trained: float,
    base_resampled: Float[Tensor, "resample"],
    trained_resampled: Float[Tensor, "resample"],
    bootstrap: Bootstrap,
    *,
    reference: float | None,
) -> Comparison:
    return Comparison(
        metric=metric,
        base=bootstrap.interval(base, base_resampled),
        trained=bootstrap.interval(trained, trained_resampled),
        # Both models share the resamples, so their difference per resample is paired.
        difference=bootstrap.interval(trained - base, trained_resampled - base_resampled),
        higher_is_better=False,
        trained_on=False,
        reference=reference,
    )


def _between_halves(
    reference: MeasuredImages, distance: Callable[[MeasuredImages, MeasuredImages], float]
) -> float | None:
    """Return the distance of every other image of each prompt to the rest, if there are two."""
    if torch.bincount(reference.prompts).min() < 2:
        return None
    # Halves have fewer images, which makes a Frechet distance larger.
    return distance(reference.every_other(0), reference.every_other(1))
