from __future__ import annotations

import pytest
import torch

from advgrpo.pocket.captions import captions_of
from advgrpo.pocket.pictures import render
from advgrpo.pocket.source import PocketRenderer

CAPTIONS = captions_of("test")[::20]
PROMPTS = [caption.text for caption in CAPTIONS]


def test_pictures_are_rgb_in_the_unit_range():
    pictures = render(CAPTIONS, 0.3, range(len(CAPTIONS)))
    assert pictures.shape == (len(CAPTIONS), 3, 32, 32)
    assert pictures.dtype == torch.float32
    assert pictures.min() >= 0.0
    assert pictures.max() <= 1.0


def test_a_picture_depends_on_its_own_seed_alone():
    together = render(CAPTIONS, 0.0, range(len(CAPTIONS)))
    alone = render(CAPTIONS[3:4], 0.0, [3])
    assert torch.allclose(together[3:4], alone, atol=1e-6)
    assert not torch.allclose(alone, render(CAPTIONS[3:4], 0.0, [4]), atol=1e-2)


def test_crisp_pictures_have_harder_edges_than_dull_ones():
    def steepest(style: float) -> torch.Tensor:
        return render(CAPTIONS, style, range(len(CAPTIONS))).diff(dim=3).abs().amax((1, 2, 3))

    assert (steepest(1.0) > steepest(0.0)).float().mean() > 0.9


def test_a_style_outside_the_unit_range_is_refused():
    with pytest.raises(ValueError, match="style"):
        render(CAPTIONS, 1.5, range(len(CAPTIONS)))


def test_captions_without_seeds_are_refused():
    with pytest.raises(ValueError, match="seeds"):
        render(CAPTIONS, 1.0, [1])


def test_the_reference_source_draws_crisp_pictures_by_seed():
    source = PocketRenderer()
    drawn = source.draw(PROMPTS, range(len(PROMPTS)))
    assert torch.equal(drawn, render(CAPTIONS, 1.0, range(len(CAPTIONS))))
    assert drawn.shape[-1] == source.resolution_pixels
    assert source.provenance["style"] == 1.0
