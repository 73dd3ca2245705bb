import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from advgrpo.data.images import encode_png
from advgrpo.errors import DataError, EvaluationError, StorageNotFoundError
from advgrpo.evaluation.evaluate import Evaluation
from advgrpo.evaluation.examples import Example
from advgrpo.evaluation.records import read_evaluated_prompts
from advgrpo.evaluation.saving import read_evaluation, write_evaluation
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


def test_an_evaluation_survives_the_disk(evaluation: Evaluation, tmp_path: Path) -> None:
    write_evaluation(tmp_path / "evaluation", evaluation)

    again = read_evaluation(tmp_path / "evaluation")

    assert again.report == evaluation.report
    (before,), (after,) = evaluation.examples, again.examples
    assert (after.prompt, after.why) == (before.prompt, before.why)
    assert (after.base_alignment, after.trained_alignment) == (0.25, 0.75)
    for side in ("base", "trained", "reference"):
        assert torch.equal(vars(after)[side], vars(before)[side])


def test_the_champion_survives_the_disk(evaluation: Evaluation, tmp_path: Path) -> None:
    one = evaluation.examples[0]
    shown = replace(one, champion=one.base, champion_alignment=0.5)
    report = replace(evaluation.report, champion=3, missing={"distance.kernel": "one prompt"})
    write_evaluation(tmp_path, Evaluation(report, (shown, one)))

    again = read_evaluation(tmp_path)

    assert again.report == report
    with_champion, without = again.examples
    assert with_champion.champion is not None
    assert torch.equal(with_champion.champion, one.base)
    assert with_champion.champion_alignment == 0.5
    assert (without.champion, without.champion_alignment) == (None, None)


def test_a_folder_without_an_evaluation_is_named(tmp_path: Path) -> None:
    with pytest.raises(StorageNotFoundError, match=r"evaluation\.json"):
        read_evaluation(tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", '{"report": 3, "examples": []}'])
def test_a_damaged_evaluation_is_refused(evaluation: Evaluation, tmp_path: Path, text: str) -> None:
    write_evaluation(tmp_path, evaluation)
    (tmp_path / "evaluation.json").write_text(text)

    with pytest.raises(DataError, match=r"evaluation\.json"):
        read_evaluation(tmp_path)


def test_a_truncated_image_is_refused(evaluation: Evaluation, tmp_path: Path) -> None:
    write_evaluation(tmp_path, evaluation)
    path = tmp_path / "images" / "000_trained_1.png"
    path.write_bytes(path.read_bytes()[:60])

    with pytest.raises(DataError, match=r"000_trained_1\.png"):
        read_evaluation(tmp_path)


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

    with pytest.raises(DataError, match=r"(?s)evaluation\.json.*names no images of "):
        read_evaluation(tmp_path)


def test_an_image_of_another_size_is_refused(evaluation: Evaluation, tmp_path: Path) -> None:
    write_evaluation(tmp_path, evaluation)
    (tmp_path / "images" / "000_base_1.png").write_bytes(encode_png(torch.zeros(3, 4, 4)))

    with pytest.raises(DataError, match=r"000_base_1\.png is of another size than .*000_base_0"):
        read_evaluation(tmp_path)


@pytest.mark.parametrize("alignment", ["1" + "0" * 400, "[]", '"x"'])
def test_an_alignment_that_is_no_number_is_refused(
    evaluation: Evaluation, tmp_path: Path, alignment: str
) -> None:
    write_evaluation(tmp_path, evaluation)
    path = tmp_path / "evaluation.json"
    path.write_text(path.read_text().replace("0.75", alignment))

    with pytest.raises(EvaluationError, match=r"evaluation\.json is no evaluation"):
        read_evaluated_prompts(tmp_path)
