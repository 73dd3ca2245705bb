import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from advgrpo.data.images import decode_image
from advgrpo.errors import EvaluationError
from advgrpo.evaluation.results import Evaluation, Example
from advgrpo.evaluation.saved_evaluation import read_evaluation
from advgrpo.evaluation.saving import write_evaluation
from advgrpo.records import Comparison, EvaluationReport, Interval


@pytest.fixture
def evaluation() -> Evaluation:
    images = torch.randint(256, (2, 3, 8, 8), generator=torch.Generator().manual_seed(0)) / 255
    comparison = Comparison(
        metric="distance.frechet",
        base=Interval(mean=3.0, low=2.5, high=3.5),
        trained=Interval(mean=1.0 / 3.0, low=0.1, high=0.9),
        difference=Interval(mean=-8.0 / 3.0, low=-3.0, high=-2.0),
        higher_is_better=False,
        trained_on=False,
        reference=0.05,
    )
    report = EvaluationReport((comparison,), 640, "judge.colour", "distance.frechet")
    example = Example("a “red” thing", "rose", 0.25, 0.75, images, images.flip(0), images[:1])
    return Evaluation(report, (example,))


def test_a_saved_evaluation_is_read_back(evaluation: Evaluation, tmp_path: Path) -> None:
    write_evaluation(tmp_path / "evaluation", evaluation)

    again = read_evaluation(tmp_path / "evaluation")

    assert again.report == evaluation.report
    (before,), (after,) = evaluation.examples, again.examples
    assert (after.prompt, after.why) == (before.prompt, before.why)
    assert (after.base_alignment, after.trained_alignment) == (0.25, 0.75)
    for side in ("base", "trained", "reference"):
        files = [tmp_path / "evaluation" / name for name in after.images[side]]
        images = [decode_image(file.read_bytes()) for file in files]
        assert torch.equal(torch.stack(images), vars(before)[side])


def test_the_champion_is_saved_if_there_is_one(evaluation: Evaluation, tmp_path: Path) -> None:
    one = evaluation.examples[0]
    example = replace(one, champion=one.base, champion_alignment=0.5)
    report = replace(evaluation.report, champion=3, missing={"distance.kernel": "one prompt"})
    write_evaluation(tmp_path, Evaluation(report, (example, one)))

    again = read_evaluation(tmp_path)

    assert again.report == report
    with_champion, without = again.examples
    assert [(tmp_path / name).is_file() for name in with_champion.images["champion"]] == [True] * 2
    assert with_champion.champion_alignment == 0.5
    assert ("champion" in without.images, without.champion_alignment) == (False, None)


def test_each_prompt_is_listed_once_with_the_trained_models_images(
    evaluation: Evaluation, tmp_path: Path
) -> None:
    one = evaluation.examples[0]
    write_evaluation(tmp_path, replace(evaluation, examples=(one, replace(one, why="best"))))

    (prompt,) = read_evaluation(tmp_path).evaluated_prompts()

    assert (prompt.prompt, prompt.alignment) == (one.prompt, one.trained_alignment)
    assert prompt.images == ("images/000_trained_0.png", "images/000_trained_1.png")


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", '{"report": 3, "examples": []}', '{"report": {}, "examples": [{"prompt": 1}]}'],
)
def test_a_damaged_evaluation_is_refused(evaluation: Evaluation, tmp_path: Path, text: str) -> None:
    write_evaluation(tmp_path, evaluation)
    (tmp_path / "evaluation.json").write_text(text)

    with pytest.raises(EvaluationError, match=r"evaluation\.json is not an evaluation"):
        read_evaluation(tmp_path)
    with pytest.raises(EvaluationError, match=r"evaluation\.json is not an evaluation"):
        read_evaluation(tmp_path / "absent")


@pytest.mark.parametrize("images", [{}, {"base": []}, {"champion": []}])
def test_an_example_needs_images_of_each_side(
    evaluation: Evaluation, tmp_path: Path, images: dict[str, list[str]]
) -> None:
    write_evaluation(tmp_path, evaluation)
    path = tmp_path / "evaluation.json"
    content = json.loads(path.read_text())
    (example,) = content["examples"]
    example["images"] = {**example["images"], **images} if images else {}
    path.write_text(json.dumps(content))

    with pytest.raises(EvaluationError, match=r"(?s)evaluation\.json.*names no images of "):
        read_evaluation(tmp_path)


@pytest.mark.parametrize("alignment", ["1" + "0" * 400, "[]", '"x"'])
def test_an_alignment_that_is_not_a_number_is_refused(
    evaluation: Evaluation, tmp_path: Path, alignment: str
) -> None:
    write_evaluation(tmp_path, evaluation)
    path = tmp_path / "evaluation.json"
    path.write_text(path.read_text().replace("0.75", alignment))

    with pytest.raises(EvaluationError, match=r"evaluation\.json is not an evaluation"):
        read_evaluation(tmp_path)
