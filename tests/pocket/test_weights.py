from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusion3Pipeline
from transformers import AutoImageProcessor, AutoTokenizer, CLIPModel, Dinov2Model

from advgrpo.pocket.captions import captions_of
from advgrpo.pocket.judge import PocketJudge, PocketJudgeScorer
from advgrpo.pocket.models import WEIGHTS_PATH
from advgrpo.pocket.pictures import render
from studies.pocket.dino import IMAGE_MEAN, normalize
from studies.pocket.measure import sample

CAPTIONS = captions_of("test")[::5]
PROMPTS = [caption.text for caption in CAPTIONS]


@pytest.fixture(scope="module")
def scorer():
    return PocketJudgeScorer.load(WEIGHTS_PATH / "judge")


@pytest.fixture(scope="module")
def pipeline():
    return StableDiffusion3Pipeline.from_pretrained(WEIGHTS_PATH / "pipeline", dtype=torch.float32)


def test_all_weights_together_stay_below_six_megabytes():
    files = list(WEIGHTS_PATH.rglob("*.safetensors"))
    assert len(files) == 8
    assert sum(file.stat().st_size for file in files) < 6_000_000


def test_nothing_but_safetensors_text_and_json_is_shipped():
    kinds = {path.suffix for path in WEIGHTS_PATH.rglob("*") if path.is_file()}
    assert kinds <= {".safetensors", ".json", ".txt", ".jinja"}


def test_the_backbone_loads_with_its_preprocessing():
    backbone = Dinov2Model.from_pretrained(WEIGHTS_PATH / "dino", dtype=torch.float32)
    processor = AutoImageProcessor.from_pretrained(WEIGHTS_PATH / "dino")
    pictures = render(CAPTIONS[:2], 1.0, [0, 1])
    assert tuple(processor.image_mean) == IMAGE_MEAN
    inputs = processor(
        images=[(p.permute(1, 2, 0) * 255).round().byte().numpy() for p in pictures],
        return_tensors="pt",
    ).pixel_values
    assert torch.allclose(inputs, normalize(pictures), atol=0.01)
    assert backbone(inputs).last_hidden_state.shape == (2, 65, 64)


def test_pickscore_prefers_the_caption_of_the_picture():
    model = CLIPModel.from_pretrained(WEIGHTS_PATH / "pickscore", dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(WEIGHTS_PATH / "pickscore")
    tokens = tokenizer(PROMPTS, padding="max_length", return_tensors="pt").input_ids
    pixels = normalize(render(CAPTIONS, 1.0, range(len(CAPTIONS))))
    logits = model(input_ids=tokens, pixel_values=pixels).logits_per_image
    assert (logits.argmax(1) == torch.arange(len(PROMPTS))).float().mean() > 0.8


@pytest.mark.parametrize(("style", "floor"), [(1.0, 0.97), (0.2, 0.9)])
def test_the_judge_reads_fresh_pictures(scorer: PocketJudgeScorer, style: float, floor: float):
    pictures = render(CAPTIONS, style, range(500, 500 + len(CAPTIONS)))
    assert scorer.score(pictures, PROMPTS)["all_attributes"].mean() > floor
    assert (scorer.style(pictures) - style).abs().mean() < 0.12


def test_the_judge_sees_a_wrong_caption(scorer: PocketJudgeScorer):
    pictures = render(CAPTIONS, 1.0, range(len(CAPTIONS)))
    assert scorer.score(pictures, PROMPTS[1:] + PROMPTS[:1])["all_attributes"].mean() < 0.1


def test_a_saved_judge_gives_the_same_scores(scorer: PocketJudgeScorer, tmp_path: Path):
    judge = PocketJudge.load(WEIGHTS_PATH / "judge")
    judge.save(tmp_path)
    pictures = render(CAPTIONS, 1.0, range(len(CAPTIONS)))
    again = PocketJudgeScorer.load(tmp_path).style(pictures)
    assert torch.equal(again, scorer.style(pictures))


def test_the_base_policy_draws_the_captions_in_a_dull_style(
    pipeline: StableDiffusion3Pipeline, scorer: PocketJudgeScorer
):
    pictures = sample(pipeline, PROMPTS, range(len(PROMPTS)), 1.0)
    assert scorer.score(pictures, PROMPTS)["all_attributes"].mean() > 0.5
    assert scorer.style(pictures).mean() < 0.4
