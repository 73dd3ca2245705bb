import json
from pathlib import Path

import pytest
import torch
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPTokenizer, CLIPVisionConfig

from advgrpo.config import Weights
from advgrpo.models.scorers.pickscore import PickScore
from advgrpo.pocket.tokenizers import build_clip_tokenizer

PROMPTS = ["a small red circle", "a large blue ring on a tan background left", "a small red circle"]


@pytest.fixture
def pickscore_folder(tmp_path: Path) -> Path:
    tokenizer = build_clip_tokenizer()
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=12,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    vision = CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=16,
        patch_size=4,
    )
    config = CLIPConfig(
        text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=8
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        CLIPModel(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    settings = {"image_mean": [0.0, 0.0, 0.0], "image_std": [1.0, 1.0, 1.0]}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    return tmp_path


def test_the_score_is_the_models_logit_for_the_images_own_prompt_over_26(
    pickscore_folder: Path,
) -> None:
    images = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    tokens = CLIPTokenizer.from_pretrained(pickscore_folder)(
        PROMPTS, padding=True, return_tensors="pt"
    )
    with torch.no_grad():
        logits = CLIPModel.from_pretrained(pickscore_folder).eval()(
            input_ids=tokens["input_ids"], pixel_values=images
        )

    scorer = PickScore(Weights(location=str(pickscore_folder)), torch.device("cpu"))
    scores = scorer.score(images, PROMPTS)

    assert list(scores) == ["score"]
    assert torch.allclose(scores["score"], logits.logits_per_image.diag() / 26, atol=1e-6)
