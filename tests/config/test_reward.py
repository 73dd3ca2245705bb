import pytest

from advgrpo.config import RunConfig, resolve
from advgrpo.config.reward import rewarded_metric
from advgrpo.errors import ConfigError

CLIP = "{location: clip}"
PICKSCORE = "package://advgrpo.pocket/weights/pickscore"
DINO = "package://advgrpo.pocket/weights/dino"


def run(*terms: str, **others: str) -> RunConfig:
    settings = [f"{key.replace('__', '.')}={value}" for key, value in others.items()]
    return resolve("pocket", [f"training.reward.terms=[{', '.join(terms)}]", *settings])


def test_any_scorer_may_reward_and_says_which_measure() -> None:
    terms = (
        "{type: discriminator}",
        f"{{type: pickscore, weights: {CLIP}, weight: 0.5}}",
        f"{{type: clip_score, weights: {CLIP}}}",
        f"{{type: hps, weights: {CLIP}}}",
        f"{{type: aesthetic, clip: {CLIP}, predictor: {CLIP}}}",
        "{type: ocr}",
        f"{{type: reference_similarity, weights: {CLIP}}}",
        "{type: external_judge, command: [judge], verdicts: [count, colour], measure: colour}",
    )
    scorers = run(*terms).training.reward.scorers
    assert {k.rpartition(".")[2]: rewarded_metric(t) for k, t in scorers.items()} == {
        "1": "pickscore.score",
        "2": "clip_score.score",
        "3": "hps.score",
        "4": "aesthetic.score",
        "5": "ocr.accuracy",
        "6": "reference_similarity.mean",
        "7": "external_judge.colour",
    }


@pytest.mark.parametrize(
    ("terms", "said"),
    [
        (("{type: ocr}", "{type: ocr, weight: 2}"), "ocr more than once"),
        (("{type: external_judge, command: [j], measure: x}",), "none of the judge's verdicts"),
        (("{type: ocr, weight: 0}",), "training.reward.terms.0.weight=0"),
        ((), "training.reward.terms=[]"),
    ],
)
def test_terms_that_cannot_reward_are_refused_by_name(terms: tuple[str, ...], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        run(*terms)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("terms", "alignment", "setting"),
    [
        (("{type: discriminator}", "{type: pocket_judge}"), "pocket_judge", "terms.1"),
        ((f"{{type: pickscore, weights: {{location: {PICKSCORE}}}}}",), "clip_score", "terms.0"),
    ],
)
def test_what_rewards_is_no_measure_of_alignment_and_both_settings_are_named(
    terms: tuple[str, ...], alignment: str, setting: str
) -> None:
    metric = {"pocket_judge": "attribute_accuracy", "clip_score": "score"}[alignment]
    scorer = {
        "pocket_judge": "{type: pocket_judge}",
        # Its weights are those of the reward, whatever it is called.
        "clip_score": f"{{type: clip_score, weights: {{location: {PICKSCORE}}}}}",
    }[alignment]
    with pytest.raises(ConfigError) as caught:
        run(
            *terms,
            evaluation__scorers=f"[{scorer}]",
            evaluation__alignment=f"{alignment}.{metric}",
            promotion__gates="[]",
        )
    assert f"evaluation.alignment='{alignment}.{metric}'" in str(caught.value)
    assert f"training.reward.{setting}" in str(caught.value)


def test_the_pocket_judge_does_not_reward_larger_pictures() -> None:
    with pytest.raises(ConfigError, match=r"training\.reward\.terms\.1 is pocket_judge.*=64"):
        run(
            "{type: discriminator}",
            "{type: pocket_judge}",
            policy__resolution_pixels="64",
            reference_images__resolution_pixels="64",
            evaluation__scorers=f"[{{type: clip_score, weights: {CLIP}}}]",
            evaluation__alignment="clip_score.score",
            promotion__gates="[]",
        )


def test_a_tuned_scorer_is_no_measure_of_alignment() -> None:
    with pytest.raises(ConfigError, match="is what discriminator trains on"):
        run(
            "{type: discriminator}",
            discriminator=f"{{type: pickscore, weights: {CLIP}}}",
            evaluation__scorers="[{type: pickscore, weights: {location: other}}]",
            evaluation__alignment="pickscore.score",
            promotion__gates="[]",
        )


def test_a_distance_through_the_eyes_of_the_reward_is_related() -> None:
    config = run(
        f"{{type: reference_similarity, weights: {{location: {DINO}}}, resolution_pixels: 32}}",
        "{type: discriminator}",
        discriminator__weights="{location: elsewhere}",
    )
    assert config.independence.related["distance.frechet"] == (
        "in the features of a model of the reward"
    )
