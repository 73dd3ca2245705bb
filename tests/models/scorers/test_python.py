"""A scorer of another package, found by its import path."""

import pytest
import torch

from advgrpo.config import resolve
from advgrpo.errors import ConfigError
from advgrpo.models.scorers.base import Scorer, score_images
from advgrpo.models.scorers.build import build_scorers

TOY = "tests.models.scorers.toy_scorer"


def build_toy(path: str = f"{TOY}:Contrast", options: str = "{}") -> Scorer:
    toy = f"{{type: python, path: '{path}', name: contrast, metrics: [spread], options: {options}}}"
    config = resolve("pocket", [f"evaluation.scorers=[{{type: pocket_judge}}, {toy}]"]).evaluation
    (scorer,) = build_scorers(config.scorers[1:], torch.device("cpu"))
    return scorer


def test_a_class_of_another_package_scores_images_with_its_options() -> None:
    images = torch.rand(3, 3, 8, 8)

    values = score_images(build_toy(options="{gain: 2}"), images, ["a", "fog", "b"])

    expected = 2 * images.std(dim=(1, 2, 3))
    assert list(values) == ["contrast.spread"]
    assert values["contrast.spread"][[0, 2]].tolist() == pytest.approx(expected[[0, 2]].tolist())
    assert values["contrast.spread"].isnan().tolist() == [False, True, False]


@pytest.mark.parametrize(
    ("path", "options", "message"),
    [
        ("absent_package:Contrast", "{}", "cannot be imported: No module named 'absent_package'"),
        (f"{TOY}:Absent", "{}", "cannot be imported"),
        (f"{TOY}:Contrast", "{bias: 1}", "unexpected keyword argument 'bias'"),
        ("types:SimpleNamespace", "{}", "has no method score"),
    ],
)
def test_a_class_that_cannot_be_built_is_named(path: str, options: str, message: str) -> None:
    with pytest.raises(ConfigError, match=rf"evaluation\.scorers\.0 \(python\).*{message}"):
        build_toy(path, options)


def test_values_that_are_not_one_per_image_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"OneValue\.score returned \{'spread': \(\)\} for 2"):
        score_images(build_toy(f"{TOY}:OneValue"), torch.rand(2, 3, 8, 8), ["a", "b"])
