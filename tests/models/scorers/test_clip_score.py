from pathlib import Path

import pytest
import torch
from transformers import CLIPModel, CLIPTokenizer

from advgrpo.config import Weights
from advgrpo.errors import WeightsError
from advgrpo.models.scorers.clip_score import ClipScore
from advgrpo.models.scorers.hps import Hps

PROMPTS = [
    "a small red circle",
    "a large blue ring",
    "a large green cross on a tan background left",
]
CPU = torch.device("cpu")


def cosines(folder: Path, images: torch.Tensor, prompts: list[str]) -> torch.Tensor:
    tokens = CLIPTokenizer.from_pretrained(folder)(prompts, padding=True, return_tensors="pt")
    with torch.no_grad():
        output = CLIPModel.from_pretrained(folder).eval()(
            input_ids=tokens["input_ids"], pixel_values=images
        )
    return torch.nn.functional.cosine_similarity(output.image_embeds, output.text_embeds)


def test_clip_score_is_two_and_a_half_times_the_cosine_and_never_below_zero(
    clip_folder: Path, images: torch.Tensor
) -> None:
    expected = cosines(clip_folder, images, PROMPTS)
    assert expected.min() < 0 < expected.max()

    scores = ClipScore(Weights(location=str(clip_folder)), CPU, prefix="").score(images, PROMPTS)

    assert list(scores) == ["score"]
    torch.testing.assert_close(scores["score"], 2.5 * expected.clamp_min(0), atol=1e-6, rtol=0)
    assert ((scores["score"] >= 0) & (scores["score"] <= 2.5)).all()


def test_the_prefix_is_prepended_to_each_prompt(clip_folder: Path, images: torch.Tensor) -> None:
    weights = Weights(location=str(clip_folder))
    whole = [f"a large {prompt}" for prompt in PROMPTS]

    with_prefix = ClipScore(weights, CPU, prefix="a large ").score(images, PROMPTS)

    written_out = ClipScore(weights, CPU, prefix="").score(images, whole)
    assert torch.equal(with_prefix["score"], written_out["score"])


def test_hps_is_the_cosine(clip_folder: Path, images: torch.Tensor) -> None:
    scores = Hps(Weights(location=str(clip_folder)), CPU).score(images, PROMPTS)

    expected = cosines(clip_folder, images, PROMPTS)
    torch.testing.assert_close(scores["score"], expected, atol=1e-6, rtol=0)
    assert scores["score"][0] != scores["score"][1]


@pytest.mark.parametrize("scorer", [Hps, lambda w, d: ClipScore(w, d, prefix="")])
def test_a_folder_without_weights_is_refused(scorer: type[Hps], tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"config\.json is missing"):
        scorer(Weights(location=str(tmp_path)), CPU)
