import pytest

from advgrpo.config import RunConfig, resolve
from advgrpo.errors import ConfigError

CLIP = "{location: clip}"
PICKSCORE = "package://advgrpo.pocket/weights/pickscore"
DINO = "package://advgrpo.pocket/weights/dino"
JUDGE = "{type: pocket_judge}"


def run(*scorers: str, **others: str) -> RunConfig:
    listed = ", ".join([JUDGE, *scorers])
    settings = [f"{key.replace('__', '.')}={value}" for key, value in others.items()]
    return resolve("pocket", [f"evaluation.scorers=[{listed}]", *settings])


def test_a_scorer_of_a_rewards_type_was_trained_on_at_any_location() -> None:
    config = run(f"{{type: pickscore, weights: {CLIP}}}")

    assert config.independence.trained_on == {"pickscore"}


def test_a_scorer_with_a_rewards_weights_was_trained_on_for_any_type() -> None:
    config = run(f"{{type: clip_score, weights: {{location: {PICKSCORE}/}}}}")

    assert config.independence.trained_on == {"clip_score"}


def test_an_aesthetic_score_on_a_rewards_clip_was_trained_on() -> None:
    config = run(
        f"{{type: aesthetic, clip: {{location: {PICKSCORE}}}, predictor: {{location: head}}}}"
    )

    assert config.independence.trained_on == {"aesthetic"}


def test_a_scorer_with_other_weights_is_independent() -> None:
    config = run(f"{{type: hps, weights: {CLIP}}}", "{type: ocr}")

    assert config.independence.trained_on == frozenset()
    assert not {"hps", "ocr", "pocket_judge"} & set(config.independence.related)


def test_a_tuned_discriminator_was_trained_on_its_initial_model() -> None:
    config = run(
        f"{{type: hps, weights: {CLIP}}}",
        "{type: pickscore, weights: {location: other}}",
        discriminator=f"{{type: pickscore, weights: {CLIP}}}",
        training__reward__terms="[{type: discriminator}]",
        evaluation__cmmd=f"{{weights: {CLIP}}}",
    )

    assert config.independence.trained_on == {"hps", "pickscore"}
    # The distances see through DINOv2, not through the discriminator's backbone.
    assert set(config.independence.related) == {"distance.cmmd"}


def test_a_scorer_with_the_discriminators_backbone_is_related() -> None:
    config = run(
        f"{{type: reference_similarity, weights: {{location: {DINO}}}}}",
        evaluation__cmmd=f"{{weights: {CLIP}}}",
    )

    related = config.independence.related
    assert config.independence.trained_on == frozenset()
    assert related["reference_similarity"] == "uses the discriminator's backbone"
    assert set(related) == {
        "reference_similarity", "distance.frechet", "distance.kernel", "manifold", "diversity"
    }  # fmt: skip


def test_another_backbone_makes_the_distances_independent() -> None:
    config = run(evaluation__distance__weights__location="elsewhere")

    assert config.independence.related == {}


def test_another_commit_is_another_model() -> None:
    one, two = "1" * 40, "2" * 40
    pickscore = f"{{type: pickscore, weights: {{location: hub://a/b, revision: '{one}'}}}}"
    term = f"[{{type: scorer, scorer: {pickscore}}}]"

    same = run(
        f"{{type: hps, weights: {{location: hub://a/b, revision: '{one}'}}}}",
        training__reward__terms=term,
    )
    other = run(
        f"{{type: hps, weights: {{location: hub://a/b, revision: '{two}'}}}}",
        training__reward__terms=term,
    )

    assert same.independence.trained_on == {"hps"}
    assert other.independence.trained_on == frozenset()


@pytest.mark.parametrize(
    ("scorer", "message"),
    [
        ("{type: hps, weights: {location: hub://a/b}}", "the commit to use of hub://a/b"),
        ("{type: hps, weights: {location: hub://a/b, revision: main}}", "full hash of a commit"),
        ("{type: hps, weights: {location: a, revision: main}}", "has no revisions"),
        ("{type: hps}", "weights: is missing"),
        ("{type: pocket_judge}", "more than once"),
        ("{type: external_judge, command: []}", "command"),
        ("{type: external_judge, command: [a], verdicts: []}", "verdicts"),
        ("{type: external_judge, command: [a], verdicts: [a.b]}", "verdicts"),
        ("{type: geneval}", "geneval"),
    ],
)
def test_a_scorer_that_cannot_be_applied_is_refused(scorer: str, message: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        run(scorer)

    assert message in str(refusal.value)
    assert "evaluation.scorers" in str(refusal.value)


def test_alignment_must_be_a_metric_of_its_scorer() -> None:
    with pytest.raises(ConfigError, match=r"use pocket_judge\.attribute_accuracy or"):
        run(evaluation__alignment="pocket_judge.accuracy")


def test_a_verdict_of_the_judge_may_be_the_alignment() -> None:
    judge = "{type: external_judge, command: [judge], verdicts: [correct, counting]}"

    config = run(judge, evaluation__alignment="external_judge.counting")

    assert config.evaluation.alignment == "external_judge.counting"


def test_the_pocket_judge_is_refused_for_larger_pictures() -> None:
    with pytest.raises(ConfigError, match=r"pocket_judge.*policy\.resolution_pixels=64"):
        run(policy__resolution_pixels="64", reference_images__resolution_pixels="64")
