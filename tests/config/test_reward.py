import pytest

from advgrpo.config import RunConfig, resolve
from advgrpo.errors import ConfigError

JUDGE = "{type: pocket_judge}"
CLIP = "{location: clip}"
PICKSCORE = "package://advgrpo.pocket/weights/pickscore"
DINO = "package://advgrpo.pocket/weights/dino"


def scorer(settings: str, metric: str = "null") -> str:
    return f"{{type: scorer, scorer: {settings}, metric: {metric}}}"


def run(*terms: str, **others: str) -> RunConfig:
    settings = [f"{key.replace('__', '.')}={value}" for key, value in others.items()]
    return resolve("pocket", [f"training.reward.terms=[{', '.join(terms)}]", *settings])


def test_any_scorer_may_reward_by_one_of_its_metrics() -> None:
    terms = (
        "{type: discriminator}",
        f"{{type: scorer, weight: 0.5, scorer: {{type: pickscore, weights: {CLIP}}}}}",
        scorer(f"{{type: clip_score, weights: {CLIP}}}"),
        scorer(f"{{type: hps, weights: {CLIP}}}"),
        scorer(f"{{type: aesthetic, clip: {CLIP}, predictor: {CLIP}}}"),
        scorer("{type: ocr}"),
        scorer(f"{{type: reference_similarity, weights: {CLIP}}}"),
        scorer("{type: external_judge, command: [judge], verdicts: [count, colour]}", "colour"),
        scorer("{type: python, path: 'pkg.rewards:Bright', name: bright, metrics: [mean]}"),
    )
    terms_with_scorers = run(*terms).training.reward.scorer_terms
    assert {k.rpartition(".")[2]: t.metric_name for k, t in terms_with_scorers.items()} == {
        "1": "pickscore.score",
        "2": "clip_score.score",
        "3": "hps.score",
        "4": "aesthetic.score",
        "5": "ocr.accuracy",
        "6": "reference_similarity.mean",
        "7": "external_judge.colour",
        "8": "bright.mean",
    }


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        ((scorer("{type: ocr}"), scorer("{type: ocr}")), "ocr more than once"),
        ((scorer("{type: external_judge, command: [j]}", "x"),), "'x' is not a metric of external"),
        ((scorer("{type: pocket_judge}"),), "set `metric` to attribute_accuracy or all_attributes"),
        (("{type: scorer, scorer: {type: ocr}, weight: 0}",), "training.reward.terms.0.weight=0"),
        ((scorer("{type: hps, weights: {location: [1]}}"),), "terms.0.scorer.weights.location"),
        (
            (scorer("{type: python, path: 'rewards.Bright', name: bright}"),),
            "terms.0.scorer.path='rewards.Bright'",
        ),
        (
            (scorer("{type: python, path: 'rewards:Bright', name: reward}"),),
            "name=reward is the name of built-in metrics",
        ),
        ((), "training.reward.terms=[]"),
    ],
)
def test_terms_that_cannot_reward_are_refused_by_name(terms: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        run(*terms)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("terms", "alignment", "setting"),
    [
        (("{type: discriminator}", scorer(JUDGE, "all_attributes")), "pocket_judge", "terms.1"),
        (
            (scorer(f"{{type: pickscore, weights: {{location: {PICKSCORE}}}}}"),),
            "clip_score",
            "terms.0",
        ),
    ],
)
def test_a_rewarded_scorer_cannot_be_alignment_and_both_settings_are_named(
    terms: tuple[str, ...], alignment: str, setting: str
) -> None:
    metric = {"pocket_judge": "attribute_accuracy", "clip_score": "score"}[alignment]
    settings = {
        "pocket_judge": JUDGE,
        # Its weights are those of the reward, whatever it is called.
        "clip_score": f"{{type: clip_score, weights: {{location: {PICKSCORE}}}}}",
    }[alignment]
    with pytest.raises(ConfigError) as caught:
        run(
            *terms,
            evaluation__scorers=f"[{settings}]",
            evaluation__alignment=f"{alignment}.{metric}",
            promotion__gates="[]",
        )
    assert f"evaluation.alignment='{alignment}.{metric}'" in str(caught.value)
    assert f"training.reward.{setting}" in str(caught.value)


def test_the_pocket_judge_does_not_reward_larger_pictures() -> None:
    with pytest.raises(ConfigError, match=r"terms\.1\.scorer: pocket_judge.*=64"):
        run(
            "{type: discriminator}",
            scorer(JUDGE, "all_attributes"),
            policy__resolution_pixels="64",
            reference_images__resolution_pixels="64",
            evaluation__scorers=f"[{{type: clip_score, weights: {CLIP}}}]",
            evaluation__alignment="clip_score.score",
            promotion__gates="[]",
        )


def test_a_tuned_scorer_cannot_be_alignment() -> None:
    with pytest.raises(ConfigError, match="discriminator optimizes this metric"):
        run(
            "{type: discriminator}",
            discriminator=f"{{type: pickscore, weights: {CLIP}}}",
            evaluation__scorers="[{type: pickscore, weights: {location: other}}]",
            evaluation__alignment="pickscore.score",
            promotion__gates="[]",
        )


def test_a_distance_in_the_features_of_the_reward_is_related() -> None:
    config = run(
        scorer(
            f"{{type: reference_similarity, weights: {{location: {DINO}}}, resolution_pixels: 32}}"
        ),
        "{type: discriminator}",
        discriminator__weights="{location: elsewhere}",
    )
    assert config.independence.related["distance.frechet"] == (
        "in the features of a scorer of the reward"
    )
