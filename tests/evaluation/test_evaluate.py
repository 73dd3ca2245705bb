from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from advgrpo.algorithm.seeds import seed_for
from advgrpo.config import EvaluationConfig, SamplingConfig
from advgrpo.errors import ConfigError, NonFiniteError, ReferenceImageError, WeightsError
from advgrpo.evaluation.batch_cache import MemoryBatchCache
from advgrpo.evaluation.evaluate import evaluate, images_to_sample
from advgrpo.evaluation.evaluator import select_prompts
from advgrpo.evaluation.examples import EXTREMES, evenly_spread
from advgrpo.evaluation.results import Champion, Evaluation, MeasuredImages
from advgrpo.models.backbones.clip import ClipBackbone
from advgrpo.models.backbones.dino import DinoBackbone
from advgrpo.models.scorers.base import Scorer
from advgrpo.models.scorers.distance import (
    CMMD_SCALE,
    KernelSums,
    frechet_distance,
    gaussian_kernel,
)
from advgrpo.records import Interval, PromptSet, ReferenceImageSet
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
        sampling: SamplingConfig = sampling,
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


def test_images_take_the_steps_of_the_given_sampling(
    run: Run, policy: ColourPolicy, sampling: SamplingConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: set[int] = set()
    sigmas = policy.sigmas

    def recorded(num_inference_steps: int) -> Tensor:
        asked.add(num_inference_steps)
        return sigmas(num_inference_steps)

    monkeypatch.setattr(policy, "sigmas", recorded)
    run(sampling=sampling.model_copy(update={"num_inference_steps": 17}))
    assert asked == {17}


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
    from advgrpo.data.image_loading import load_images

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

    marked = {c.metric for c in report.comparisons if c.trained_on}
    assert marked == {"discriminator.reward"}


def test_a_scorer_that_was_in_the_reward_is_marked(run: Run) -> None:
    report = run(trained_on={"judge"}).report

    assert {c.metric for c in report.comparisons if c.trained_on} == {"judge.colour"}


def test_plain_statistics_have_no_better_direction(run: Run) -> None:
    statistics = [c for c in run().report.comparisons if c.metric.startswith("image.")]

    assert len(statistics) == 5
    assert run().report.comparison("diversity.in_group").higher_is_better is None
    assert all(c.higher_is_better is None and c.reference is not None for c in statistics)


def test_diversity_needs_two_images_of_a_prompt(run: Run, config: EvaluationConfig) -> None:
    with_pairs = run().report
    without = run(config=config.model_copy(update={"images_per_prompt": 1})).report

    assert with_pairs.comparison("diversity.in_group").reference is not None
    assert "diversity.in_group" not in {c.metric for c in without.comparisons}


def test_one_prompt_has_no_kernel_distance(run: Run, config: EvaluationConfig) -> None:
    report = run(config=config.model_copy(update={"prompts": 1, "grid_prompts": 1})).report

    metrics = {c.metric for c in report.comparisons}
    assert "distance.frechet" in metrics
    assert "distance.kernel" not in metrics


def test_progress_counts_every_sampled_image_once(
    run: Run, prompts: PromptSet, config: EvaluationConfig
) -> None:
    counted: list[int] = []

    run(on_progress=counted.append)

    assert sum(counted) == images_to_sample(prompts, config) == 2 * 2 * len(PROMPTS)


def test_prompts_are_spread_evenly_over_the_file(
    prompts: PromptSet, config: EvaluationConfig
) -> None:
    some = select_prompts(prompts, config.model_copy(update={"prompts": 4}))

    assert [PROMPTS.index(text) // 3 for text in some] == [0, 1, 2, 3]
    assert select_prompts(prompts, config) == list(PROMPTS)


def test_a_pattern_in_the_file_is_not_sampled_at_equal_steps() -> None:
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


def test_an_alignment_metric_of_no_scorer_is_refused_before_sampling(
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


class RedScorer:
    """Measures what is red only."""

    name = "red"
    metrics = ("share",)

    def why_missing(self, prompt: str) -> str:
        return "" if "red" in prompt else "it is not red"

    def score(self, images: Tensor, prompts: Sequence[str]) -> Mapping[str, Tensor]:
        assert all("red" in prompt for prompt in prompts)
        return {"share": images[:, 0].mean(dim=(1, 2))}


class NothingScorer(RedScorer):
    """Measures no prompt at all."""

    name = "nothing"

    def why_missing(self, prompt: str) -> str:  # noqa: ARG002 - whatever it is
        return "nonsense"


def test_a_metric_of_some_prompts_is_compared_over_those_and_noted(run: Run) -> None:
    report = run(scorers=(ColourJudge(), RedScorer())).report
    red, colour = report.comparison("red.share"), report.comparison("judge.colour")

    assert red.missing == "no value for 8 of 12 prompts: it is not red"
    assert colour.missing == ""
    # The adapter draws red prompts red; others would have pulled the mean down.
    assert red.trained.mean == pytest.approx(0.76, abs=0.15)
    assert red.difference.low > 0
    assert red.reference == pytest.approx(0.9, abs=0.05)
    assert report.missing == {}


def test_a_metric_of_no_prompt_is_listed_as_missing(run: Run) -> None:
    report = run(scorers=(ColourJudge(), NothingScorer())).report

    assert report.missing == {"nothing.share": "no value for 12 of 12 prompts: nonsense"}
    assert "nothing.share" not in {c.metric for c in report.comparisons}


def test_an_alignment_that_some_prompts_lack_is_refused_before_sampling(
    run: Run, policy: ColourPolicy, config: EvaluationConfig
) -> None:
    wrong = config.model_copy(update={"alignment": "red.share"})

    with pytest.raises(ConfigError, match="no value for 8 of 12 prompts: it is not red"):
        run(config=wrong, scorers=(RedScorer(),))

    assert not policy.drawn


def test_metrics_that_share_weights_with_the_reward_are_marked(run: Run) -> None:
    report = run(
        trained_on={"judge"},
        related={"manifold": "same eyes", "distance.kernel": "same space", "judge": "same judge"},
    ).report

    words = {c.metric: c.related for c in report.comparisons if c.related}
    assert words == {
        "distance.kernel": "same space",
        **{f"manifold.{m}": "same eyes" for m in ("precision", "recall", "density", "coverage")},
    }


def test_the_better_model_covers_more_of_the_reference_images(run: Run) -> None:
    report = run().report

    for name in ("recall", "coverage"):
        comparison = report.comparison(f"manifold.{name}")
        assert comparison.trained.mean > comparison.base.mean
        assert 0 <= comparison.base.mean <= comparison.trained.mean <= 1
        assert comparison.reference is not None


def test_too_few_images_have_no_coverage(run: Run, config: EvaluationConfig) -> None:
    report = run(config=config.model_copy(update={"prompts": 1, "grid_prompts": 1})).report

    assert not [c.metric for c in report.comparisons if c.metric.startswith("manifold")]


def test_every_direction_is_that_of_the_catalogue(run: Run, clip: ClipBackbone) -> None:
    from advgrpo.models.scorers.catalogue import find_facts

    comparisons = run(scorers=(ColourJudge(),), clip=clip).report.comparisons
    known = [(c, find_facts(c.metric)) for c in comparisons if c.metric != "judge.colour"]

    assert len(known) == 3 + 4 + 5 + 1
    for comparison, facts in known:
        assert facts is not None, comparison.metric
        assert comparison.higher_is_better == facts.higher_is_better


def test_a_scorer_of_another_package_is_compared_and_reported(run: Run) -> None:
    from advgrpo.config.scorers.python import PythonScorerConfig
    from advgrpo.models.scorers.build import build_scorers

    toy = PythonScorerConfig(
        path="tests.models.scorers.toy_scorer:Contrast", name="contrast", metrics=("spread",)
    )
    scorers = build_scorers([toy], torch.device("cpu"))
    comparison = run(scorers=(ColourJudge(), *scorers)).report.comparison("contrast.spread")

    # The trained model's images have the colour of the prompt, the base model's are grey.
    assert comparison.trained.mean > comparison.base.mean


def test_cmmd_is_measured_in_the_embeddings_of_a_clip(
    run: Run, clip: ClipBackbone, config: EvaluationConfig, reference_images: ReferenceImageSet
) -> None:
    from advgrpo.data.image_loading import load_images

    report = run(clip=clip, config=config.model_copy(update={"grid_prompts": len(PROMPTS)}))
    trained = torch.cat([e.trained for e in report.examples if e.why == "spread"])
    references = torch.cat([load_images(reference_images, p, range(4)) for p in PROMPTS])
    sums = KernelSums.between(
        clip.image_features(trained),
        torch.arange(len(PROMPTS)).repeat_interleave(2),
        clip.image_features(references),
        torch.arange(len(PROMPTS)).repeat_interleave(4),
        kernel=gaussian_kernel,
    )

    cmmd = report.report.comparison("distance.cmmd")

    expected = CMMD_SCALE * sums.distances(torch.ones(1, len(PROMPTS))).item()
    assert cmmd.trained.mean == pytest.approx(expected, rel=1e-3)
    assert cmmd.trained.mean < cmmd.base.mean
    assert cmmd.higher_is_better is False


class BrokenScorer:
    name = "broken"

    def score(self, images: Tensor, prompts: Sequence[str]) -> Mapping[str, Tensor]:
        values = images.mean(dim=(1, 2, 3))
        # Reference images are whole; what is drawn has other values.
        drawn = images.mean(dim=(1, 2, 3)) != images.mul(255).round().div(255).mean(dim=(1, 2, 3))
        values[torch.tensor(["blue" in prompt for prompt in prompts]) & drawn] = float("nan")
        return {"value": values}


def test_a_score_that_is_not_finite_is_named_with_its_prompt(run: Run) -> None:
    seed = seed_for("evaluation", 1234, "a blue thing, 0", 0)
    said = rf"broken\.value .*a blue thing, 0' \(seed {seed}\)"

    with pytest.raises(NonFiniteError, match=said):
        run(scorers=(ColourJudge(), BrokenScorer()))


def test_the_champion_is_measured_on_the_same_seeds_and_resamples(
    run: Run, policy: ColourPolicy
) -> None:
    champion = Champion(3, "ab" * 32, policy.as_champion)

    alone, evaluation = run(), run(champion=champion)

    assert evaluation.report.champion == 3
    for before, after in zip(alone.report.comparisons, evaluation.report.comparisons, strict=True):
        assert replace(after, champion=None, difference_to_champion=None) == before
    alignment = evaluation.report.comparison("judge.colour")
    assert alignment.champion is not None
    assert alignment.difference_to_champion is not None
    assert alignment.base.mean < alignment.champion.mean < alignment.trained.mean
    gain = alignment.trained.mean - alignment.champion.mean
    assert alignment.difference_to_champion.mean == pytest.approx(gain, abs=1e-6)
    assert alignment.difference_to_champion.low > 0
    example = evaluation.examples[0]
    assert example.champion is not None
    assert not torch.equal(example.champion, example.trained)
    assert example.champion_alignment is not None


def test_a_champion_that_is_the_adapter_itself_has_no_difference(run: Run) -> None:
    report = run(champion=Champion(3, "ab" * 32, nullcontext)).report

    for comparison in report.comparisons:
        assert comparison.difference_to_champion == Interval(0.0, 0.0, 0.0)


@contextmanager
def unfit() -> Iterator[None]:
    raise WeightsError("it is for another base model")
    yield


def test_a_champion_that_does_not_fit_is_marked_as_missing(run: Run) -> None:
    report = run(champion=Champion(3, "ab" * 32, unfit)).report

    assert report == replace(
        run().report,
        missing={"champion": "version 3 cannot be used: it is for another base model"},
    )


def test_metrics_that_need_more_images_are_listed_as_missing(
    run: Run, config: EvaluationConfig
) -> None:
    one_prompt = config.model_copy(update={"prompts": 1, "grid_prompts": 1})
    one_image = config.model_copy(update={"images_per_prompt": 1})

    assert "one prompt" in run(config=one_prompt).report.missing["distance.kernel"]
    assert "images_per_prompt" in run(config=one_image).report.missing["diversity.in_group"]
    assert run().report.missing == {}


def test_at_most_one_batch_is_sampled_at_once(
    run: Run, policy: ColourPolicy, config: EvaluationConfig
) -> None:
    run()

    assert max(count for _adapted, count in policy.drawn) == config.batch_size


class Interrupting(MemoryBatchCache):
    """Fails after a few batches, as a killed process does."""

    def __init__(self, batches: int) -> None:
        super().__init__()
        self.left = batches

    def write(self, name: str, measured: MeasuredImages) -> None:
        if self.left == 0:
            raise KeyboardInterrupt
        self.left -= 1
        super().write(name, measured)


@pytest.mark.parametrize("batches", [1, 9, 12])
def test_an_interrupted_evaluation_resumes_with_equal_bits(
    run: Run, policy: ColourPolicy, batches: int
) -> None:
    champion = Champion(3, "ab" * 32, policy.as_champion)
    whole, cache = run(champion=champion), Interrupting(batches)
    with pytest.raises(KeyboardInterrupt):
        run(champion=champion, cache=cache)
    cache.left = 1000
    policy.drawn.clear()
    resumed: list[int] = []
    drawn: list[int] = []

    again = run(champion=champion, cache=cache, on_resume=resumed.append, on_progress=drawn.append)

    assert again.report == whole.report
    assert sum(resumed) + sum(drawn) == 3 * 2 * len(PROMPTS)
    shown = len({example.prompt for example in again.examples}) * 2
    assert sum(count for _adapted, count in policy.drawn) == sum(drawn) + 3 * shown


def test_cached_batches_of_one_champion_are_not_used_for_the_next(
    run: Run, policy: ColourPolicy
) -> None:
    cache = MemoryBatchCache()
    run(champion=Champion(3, "ab" * 32, policy.as_champion), cache=cache)

    report = run(champion=Champion(4, "cd" * 32, nullcontext), cache=cache).report

    difference = report.comparison("judge.colour").difference_to_champion
    assert difference == Interval(0.0, 0.0, 0.0)


def test_prompts_with_the_best_and_the_worst_alignment_are_shown(run: Run) -> None:
    examples = run().examples

    best, worst = (
        [e.trained_alignment for e in examples if e.why == why] for why in ("best", "worst")
    )
    assert len(best) == len(worst) == EXTREMES
    assert min(best) > max(worst)
