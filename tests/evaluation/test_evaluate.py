from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from advgrpo.backbones.dino import DinoBackbone
from advgrpo.config import EvaluationConfig, SamplingConfig
from advgrpo.errors import ConfigError, NonFiniteError, ReferenceImageError
from advgrpo.evaluation.evaluate import Evaluation, chosen_prompts, evaluate, images_to_sample
from advgrpo.evaluation.examples import EXTREMES, evenly_spread
from advgrpo.records import PromptSet, ReferenceImageSet
from advgrpo.scorers.base import Scorer
from advgrpo.scorers.distance import KernelSums, frechet_distance
from tests.evaluation.world import PROMPTS, ColourJudge, ColourPolicy

Run = Callable[..., Evaluation]


@pytest.fixture
def run(
    policy: ColourPolicy,
    prompts: PromptSet,
    reference_images: ReferenceImageSet,
    config: EvaluationConfig,
    sampling: SamplingConfig,
    backbone: DinoBackbone,
) -> Run:
    """Evaluates the small world, with some of its parts exchanged."""

    def evaluation(
        *,
        config: EvaluationConfig = config,
        scorers: Sequence[Scorer] = (ColourJudge(),),
        reference_images: ReferenceImageSet = reference_images,
        **others: object,
    ) -> Evaluation:
        return evaluate(
            policy,
            prompts,
            reference_images,
            config=config,
            sampling=sampling,
            scorers=scorers,
            backbone=backbone,
            **others,
        )

    return evaluation


def brightness(images: Tensor, prompts: Sequence[str]) -> Tensor:
    assert len(images) == len(prompts)
    return images.mean(dim=(1, 2, 3))


def test_the_better_model_is_nearer_and_better_aligned(run: Run) -> None:
    report = run().report
    distance, alignment = (report.comparison(m) for m in (report.distance, report.alignment))

    assert report.images == 2 * len(PROMPTS)
    assert distance.trained.mean < 0.5 * distance.base.mean
    assert distance.difference.high < 0
    assert alignment.difference.low > 0
    assert (distance.higher_is_better, alignment.higher_is_better) == (False, True)


def test_a_comparison_is_consistent_in_itself(run: Run) -> None:
    for comparison in run(reward=brightness).report.comparisons:
        difference = comparison.trained.mean - comparison.base.mean
        assert comparison.difference.mean == pytest.approx(difference, abs=1e-6)
        for interval in (comparison.base, comparison.trained, comparison.difference):
            assert interval.low <= interval.mean <= interval.high


def test_evaluating_twice_gives_equal_numbers_and_images(run: Run) -> None:
    first, second = run(reward=brightness), run(reward=brightness)

    assert first.report == second.report
    for one, two in zip(first.examples, second.examples, strict=True):
        assert torch.equal(one.trained, two.trained)


def test_the_batch_size_changes_no_image(run: Run, config: EvaluationConfig) -> None:
    by_five, by_one = run(), run(config=config.model_copy(update={"batch_size": 1}))

    for one, two in zip(by_five.report.comparisons, by_one.report.comparisons, strict=True):
        assert one.trained.mean == pytest.approx(two.trained.mean, abs=1e-5)


def test_distances_are_those_of_the_class_tokens_to_all_reference_images(
    run: Run, backbone: DinoBackbone, reference_images: ReferenceImageSet, config: EvaluationConfig
) -> None:
    from advgrpo.data.reference_images import load_images

    evaluation = run(config=config.model_copy(update={"grid_prompts": len(PROMPTS)}))
    trained = torch.cat([e.trained for e in evaluation.examples if e.why == "spread"])
    references = torch.cat([load_images(reference_images, p, range(4)) for p in PROMPTS])
    features, others = backbone.tokens(trained)[:, 0], backbone.tokens(references)[:, 0]

    frechet = evaluation.report.comparison("distance.frechet")
    kernel = evaluation.report.comparison("distance.kernel")

    assert frechet.trained.mean == pytest.approx(frechet_distance(features, others), rel=1e-4)
    sums = KernelSums.between(
        features,
        torch.arange(len(PROMPTS)).repeat_interleave(2),
        others,
        torch.arange(len(PROMPTS)).repeat_interleave(4),
    )
    expected = sums.distances(torch.ones(1, len(PROMPTS))).item()
    assert kernel.trained.mean == pytest.approx(expected, rel=1e-4)
    halves = frechet_distance(others[::2], others[1::2])
    assert frechet.reference == pytest.approx(halves, rel=1e-4)


def test_base_and_trained_model_start_from_the_same_noise(run: Run) -> None:
    example = run().examples[0]

    # The policy adds the same remainder of the noise to either model's colour.
    base = example.base - example.base.mean(dim=(2, 3), keepdim=True)
    trained = example.trained - example.trained.mean(dim=(2, 3), keepdim=True)
    correlation = torch.corrcoef(torch.stack([base.flatten(), trained.flatten()]))[0, 1]
    assert correlation > 0.8
    assert not torch.equal(example.base, example.trained)


def test_images_of_one_prompt_have_different_seeds(run: Run) -> None:
    example = run().examples[0]

    assert not torch.equal(example.trained[0], example.trained[1])


def test_the_trained_reward_is_reported_as_trained_on(run: Run) -> None:
    report = run(reward=brightness).report

    marked = {c.measure for c in report.comparisons if c.trained_on}
    assert marked == {"discriminator.reward"}


def test_a_scorer_that_was_in_the_reward_is_marked(run: Run) -> None:
    report = run(trained_on={"judge"}).report

    assert {c.measure for c in report.comparisons if c.trained_on} == {"judge.colour"}


def test_plain_statistics_have_no_better_direction(run: Run) -> None:
    statistics = [c for c in run().report.comparisons if c.measure.startswith("image.")]

    assert len(statistics) == 4
    assert run().report.comparison("diversity.in_group").higher_is_better is None
    assert all(c.higher_is_better is None and c.reference is not None for c in statistics)


def test_diversity_needs_two_images_of_a_prompt(run: Run, config: EvaluationConfig) -> None:
    with_pairs = run().report
    without = run(config=config.model_copy(update={"images_per_prompt": 1})).report

    assert with_pairs.comparison("diversity.in_group").reference is not None
    assert "diversity.in_group" not in {c.measure for c in without.comparisons}


def test_one_prompt_has_no_kernel_distance(run: Run, config: EvaluationConfig) -> None:
    report = run(config=config.model_copy(update={"prompts": 1, "grid_prompts": 1})).report

    measures = {c.measure for c in report.comparisons}
    assert "distance.frechet" in measures
    assert "distance.kernel" not in measures


def test_progress_counts_every_sampled_image_once(
    run: Run, prompts: PromptSet, config: EvaluationConfig
) -> None:
    counted: list[int] = []

    run(on_progress=counted.append)

    assert sum(counted) == images_to_sample(prompts, config) == 2 * 2 * len(PROMPTS)


def test_prompts_are_spread_evenly_over_the_file(
    prompts: PromptSet, config: EvaluationConfig
) -> None:
    some = chosen_prompts(prompts, config.model_copy(update={"prompts": 4}))

    assert [PROMPTS.index(text) // 3 for text in some] == [0, 1, 2, 3]
    assert chosen_prompts(prompts, config) == list(PROMPTS)


def test_a_pattern_in_the_file_is_not_picked_over_and_over() -> None:
    positions = evenly_spread(320, 64, seed=0)

    assert len(set(positions)) == 64
    assert len({position % 5 for position in positions}) == 5


def test_examples_show_prompts_that_rose_and_none_that_fell_if_none_did(run: Run) -> None:
    examples = run().examples

    assert [PROMPTS.index(e.prompt) // 4 for e in examples if e.why == "spread"] == [0, 1, 2]
    rose = [e.trained_alignment - e.base_alignment for e in examples if e.why == "rose"]
    assert len(rose) == EXTREMES
    assert rose == sorted(rose, reverse=True)
    assert not [e for e in examples if e.why == "fell"]


def test_an_alignment_that_no_scorer_measures_is_refused_before_sampling(
    run: Run, policy: ColourPolicy, config: EvaluationConfig
) -> None:
    wrong = config.model_copy(update={"alignment": "judge.shape"})

    with pytest.raises(ConfigError, match=r"judge\.shape") as refusal:
        run(config=wrong)

    assert "judge.colour" in refusal.value.repair
    assert not policy.drawn


def test_a_prompt_without_reference_images_is_refused_before_sampling(
    run: Run, policy: ColourPolicy, reference_images: ReferenceImageSet
) -> None:
    files = {
        prompt: names for prompt, names in reference_images.files.items() if "blue" not in prompt
    }

    with pytest.raises(ReferenceImageError, match="blue"):
        run(reference_images=replace(reference_images, files=files))

    assert not policy.drawn


def test_a_single_image_is_refused(run: Run, config: EvaluationConfig) -> None:
    with pytest.raises(ConfigError, match=r"evaluation\.images_per_prompt"):
        run(config=config.model_copy(update={"prompts": 1, "images_per_prompt": 1}))


class BrokenScorer:
    name = "broken"

    def score(self, images: Tensor, prompts: Sequence[str]) -> Mapping[str, Tensor]:
        values = images.mean(dim=(1, 2, 3))
        values[["blue" in prompt for prompt in prompts]] = float("nan")
        return {"value": values}


def test_a_score_that_is_not_a_number_is_named_with_its_prompt(run: Run) -> None:
    with pytest.raises(NonFiniteError, match=r"broken\.value .*a blue thing, 0"):
        run(scorers=(ColourJudge(), BrokenScorer()))
