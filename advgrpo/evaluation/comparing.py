"""Base against trained model, measure by measure."""

from collections.abc import Callable, Collection
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from advgrpo.evaluation.bootstrap import Bootstrap
from advgrpo.evaluation.measuring import REWARD, STATISTICS, MeasuredImages
from advgrpo.records import Comparison
from advgrpo.scorers.distance import KernelSums, frechet_distance
from advgrpo.scorers.diversity import in_group_distance

FRECHET = "distance.frechet"
KERNEL = "distance.kernel"
DIVERSITY = "diversity.in_group"


@dataclass(frozen=True)
class MeasuredSets:
    """Images of both models for the same prompts and seeds, in the same order, and references."""

    base: MeasuredImages
    trained: MeasuredImages
    reference: MeasuredImages


def compare(
    sets: MeasuredSets, bootstrap: Bootstrap, *, trained_on: Collection[str]
) -> tuple[Comparison, ...]:
    """Compare two models by all measures.

    Args:
        sets: What was measured.
        bootstrap: Resamples of the prompts.
        trained_on: Names of the scorers that the run's reward was trained on.

    Returns:
        Distances first, then each measure of single images, then diversity. The kernel distance is
        left out if there is but one prompt, and diversity if there is but one image of a prompt.
    """
    comparisons = [_frechet(sets, bootstrap)]
    if bootstrap.counts.shape[1] > 1:
        comparisons.append(_kernel(sets, bootstrap))
    for measure in sets.base.values:
        scorer = measure.partition(".")[0]
        comparisons.append(
            _means(
                measure,
                sets.base.by_prompt(measure),
                sets.trained.by_prompt(measure),
                sets.reference.by_prompt(measure),
                bootstrap,
                higher_is_better=None if scorer == STATISTICS else True,
                trained_on=measure == REWARD or scorer in trained_on,
            )
        )
    base, trained = _diversity(sets.base), _diversity(sets.trained)
    if base is not None and trained is not None:
        # Noise is diverse, too: neither direction is better without a look at the reference images.
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
    return tuple(comparisons)


def _means(
    measure: str,
    base: Float[Tensor, "prompt"],
    trained: Float[Tensor, "prompt"],
    reference: Float[Tensor, "prompt"] | None,
    bootstrap: Bootstrap,
    *,
    higher_is_better: bool | None,
    trained_on: bool,
) -> Comparison:
    return Comparison(
        measure=measure,
        base=bootstrap.interval(float(base.mean()), bootstrap.means(base)),
        trained=bootstrap.interval(float(trained.mean()), bootstrap.means(trained)),
        difference=bootstrap.interval(
            float((trained - base).mean()), bootstrap.means(trained - base)
        ),
        higher_is_better=higher_is_better,
        trained_on=trained_on,
        reference=None if reference is None else float(reference.mean()),
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

    def resampled(images: MeasuredImages) -> Tensor:
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
        resampled(sets.base),
        resampled(sets.trained),
        bootstrap,
        reference=_between_halves(
            reference, lambda half, other: frechet_distance(half.features, other.features)
        ),
    )


def _kernel(sets: MeasuredSets, bootstrap: Bootstrap) -> Comparison:
    everything = torch.ones(1, bootstrap.counts.shape[1], dtype=torch.float64)

    def distances(images: MeasuredImages) -> tuple[float, Tensor]:
        """Return the distance of all prompts, and that of each resample."""
        sums = KernelSums.between(
            images.features, images.prompts, sets.reference.features, sets.reference.prompts
        )
        return sums.distances(everything).item(), sums.distances(bootstrap.counts)

    base, base_resampled = distances(sets.base)
    trained, trained_resampled = distances(sets.trained)
    return _distances(
        KERNEL,
        base,
        trained,
        base_resampled,
        trained_resampled,
        bootstrap,
        reference=_between_halves(
            sets.reference,
            lambda half, other: (
                KernelSums.between(half.features, half.prompts, other.features, other.prompts)
                .distances(everything)
                .item()
            ),
        ),
    )


def _distances(
    measure: str,
    base: float,
    trained: float,
    base_resampled: Float[Tensor, "resample"],
    trained_resampled: Float[Tensor, "resample"],
    bootstrap: Bootstrap,
    *,
    reference: float | None,
) -> Comparison:
    return Comparison(
        measure=measure,
        base=bootstrap.interval(base, base_resampled),
        trained=bootstrap.interval(trained, trained_resampled),
        difference=bootstrap.interval(trained - base, trained_resampled - base_resampled),
        higher_is_better=False,
        trained_on=False,
        reference=reference,
    )


def _between_halves(
    reference: MeasuredImages, distance: Callable[[MeasuredImages, MeasuredImages], float]
) -> float | None:
    """Measure between every other image of each prompt and the rest; None if one has but one."""
    if torch.bincount(reference.prompts).min() < 2:
        return None
    return distance(reference.every_other(0), reference.every_other(1))
