from pathlib import Path

import pytest
import torch

from advgrpo.data.images import decode_image, encode_png
from advgrpo.models.backbones.dino import DinoBackbone
from advgrpo.models.scorers.reference_similarity import ReferenceSimilarity
from advgrpo.records import ReferenceImageSet
from tests.models.scorers.conftest import SIDE


@pytest.fixture
def reference_images(tmp_path: Path) -> ReferenceImageSet:
    """Three images of a circle, one of a ring, none of a star."""
    generator = torch.Generator().manual_seed(3)
    files = {"circle": ("a.png", "b.png", "c.png"), "ring": ("d.png",), "star": ()}
    for names in files.values():
        for name in names:
            image = torch.rand(3, SIDE, SIDE, generator=generator)
            (tmp_path / name).write_bytes(encode_png(image))
    return ReferenceImageSet(
        root=str(tmp_path), files=files, resolution_pixels=SIDE, digest="0" * 64
    )


def read(reference_images: ReferenceImageSet, name: str) -> torch.Tensor:
    return decode_image(Path(reference_images.root, name).read_bytes())


def cosines(dino: DinoBackbone, one: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    tokens = dino.tokens(torch.cat([one[None], others]))[:, 0]
    return torch.nn.functional.cosine_similarity(tokens[:1], tokens[1:])


def test_similarity_is_the_mean_cosine_to_the_prompts_own_reference_images(
    dino: DinoBackbone, reference_images: ReferenceImageSet, images: torch.Tensor
) -> None:
    scorer = ReferenceSimilarity(dino, reference_images)

    scores = scorer.score(images[:2], ["circle", "ring"])["mean"]

    circles = torch.stack([read(reference_images, f"{name}.png") for name in "abc"])
    rings = read(reference_images, "d.png")[None]
    assert scores[0].item() == pytest.approx(cosines(dino, images[0], circles).mean().item(), 1e-5)
    assert scores[1].item() == pytest.approx(cosines(dino, images[1], rings).item(), rel=1e-5)


def test_a_reference_image_is_not_compared_with_itself(
    dino: DinoBackbone, reference_images: ReferenceImageSet
) -> None:
    first = read(reference_images, "a.png")
    others = torch.stack([read(reference_images, f"{name}.png") for name in "bc"])

    scorer = ReferenceSimilarity(dino, reference_images)
    score = scorer.score(first[None], ["circle"])["mean"].item()

    assert score == pytest.approx(cosines(dino, first, others).mean().item(), rel=1e-5)
    assert score < 0.9999


def test_the_only_reference_image_has_similarity_one_to_itself(
    dino: DinoBackbone, reference_images: ReferenceImageSet
) -> None:
    ring = read(reference_images, "d.png")[None]

    scorer = ReferenceSimilarity(dino, reference_images)

    assert scorer.score(ring, ["ring"])["mean"].item() == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("prompt", ["star", "square"])
def test_a_prompt_without_reference_images_has_no_value(
    prompt: str, dino: DinoBackbone, reference_images: ReferenceImageSet
) -> None:
    scorer = ReferenceSimilarity(dino, reference_images)

    assert scorer.why_missing(prompt) == "it has no reference images"
    assert scorer.why_missing("ring") == ""
