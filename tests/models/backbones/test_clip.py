from pathlib import Path

import pytest
import torch
from transformers import CLIPModel, CLIPTextModelWithProjection, CLIPTokenizer

from advgrpo.config import Weights
from advgrpo.errors import WeightsError
from advgrpo.models.backbones.clip import ClipBackbone, ClipTextEncoder

CPU = torch.device("cpu")
PROMPTS = ["a small red circle", "a large blue ring on a tan background left"]


def text_encoder(folder: Path) -> ClipTextEncoder:
    return ClipTextEncoder(
        Weights(location=str(folder), subfolder="text_encoder"),
        Weights(location=str(folder), subfolder="tokenizer"),
        CPU,
    )


def test_cosine_times_scale_is_the_models_own_logit(clip_folder: Path) -> None:
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    mean, std = torch.tensor([0.5, 0.4, 0.3]), torch.tensor([0.2, 0.25, 0.3])
    tokens = CLIPTokenizer.from_pretrained(clip_folder)(PROMPTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        expected = CLIPModel.from_pretrained(clip_folder).eval()(
            input_ids=tokens["input_ids"],
            attention_mask=tokens["attention_mask"],
            pixel_values=(images - mean.view(1, 3, 1, 1)) / std.view(1, 3, 1, 1),
        )
    clip = ClipBackbone(Weights(location=str(clip_folder)), CPU)

    cosines = clip.image_features(images) @ clip.text_features(PROMPTS).T

    assert torch.allclose(clip.logit_scale * cosines, expected.logits_per_image, atol=1e-5)


def test_features_have_length_one(clip_folder: Path) -> None:
    clip = ClipBackbone(Weights(location=str(clip_folder)), CPU)

    for features in (clip.image_features(torch.rand(3, 3, 20, 20)), clip.text_features(PROMPTS)):
        assert torch.allclose(features.norm(dim=-1), torch.ones(len(features)))


def test_a_prompt_longer_than_the_model_reads_is_truncated(clip_folder: Path) -> None:
    clip = ClipBackbone(Weights(location=str(clip_folder)), CPU)

    assert torch.isfinite(clip.text_features(["red " * 50])).all()


@pytest.mark.parametrize(
    ("gone", "named"),
    [
        (("preprocessor_config.json",), r"preprocessor_config\.json"),
        (("tokenizer.json", "vocab.json", "merges.txt"), "no tokenizer"),
    ],
)
def test_a_clip_folder_lacking_a_part_is_refused(
    clip_folder: Path, gone: tuple[str, ...], named: str
) -> None:
    for name in gone:
        (clip_folder / name).unlink(missing_ok=True)

    with pytest.raises(WeightsError, match=named):
        ClipBackbone(Weights(location=str(clip_folder)), CPU)


def test_a_damaged_tokenizer_is_refused(clip_folder: Path) -> None:
    (clip_folder / "tokenizer.json").write_text("{")

    with pytest.raises(WeightsError, match="tokenizer"):
        ClipBackbone(Weights(location=str(clip_folder)), CPU)


def test_embeddings_are_the_projected_end_token(text_encoder_folder: Path) -> None:
    tokens = CLIPTokenizer.from_pretrained(text_encoder_folder / "tokenizer")(
        PROMPTS, padding="max_length", max_length=12, return_tensors="pt"
    )
    model = CLIPTextModelWithProjection.from_pretrained(text_encoder_folder / "text_encoder").eval()
    encoder = text_encoder(text_encoder_folder)

    embeddings = encoder.embed(PROMPTS)

    with torch.no_grad():
        expected = model(input_ids=tokens["input_ids"]).text_embeds
    assert embeddings.shape == (2, encoder.width)
    assert torch.allclose(embeddings, expected, atol=1e-6)


def test_a_cached_embedding_has_no_gradient(text_encoder_folder: Path) -> None:
    assert not text_encoder(text_encoder_folder).embed(PROMPTS).requires_grad


def test_a_repeated_prompt_has_the_same_embedding(text_encoder_folder: Path) -> None:
    encoder = text_encoder(text_encoder_folder)
    alone = encoder.embed(PROMPTS[:1])

    together = encoder.embed([PROMPTS[1], PROMPTS[0], PROMPTS[0]])

    assert torch.equal(together[1], alone[0])
    assert torch.equal(together[2], alone[0])
    assert not torch.equal(together[0], alone[0])


def test_a_whole_clip_is_refused_as_a_text_encoder(clip_folder: Path) -> None:
    weights = Weights(location=str(clip_folder))

    with pytest.raises(WeightsError, match="clip_text_model"):
        ClipTextEncoder(weights, weights, CPU)
