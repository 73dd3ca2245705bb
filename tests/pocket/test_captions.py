from __future__ import annotations

import pytest

from advgrpo.pocket.captions import Split, all_captions, captions_of, parse_caption, read_prompts


def test_every_caption_is_read_back_from_its_text():
    assert [parse_caption(caption.text) for caption in all_captions()] == list(all_captions())


def test_there_are_as_many_captions_as_the_recipe_says():
    assert len(set(all_captions())) == 2160
    assert (len(captions_of("train")), len(captions_of("test"))) == (1840, 320)


def test_no_held_out_triple_is_trained_on():
    train = {caption.triple for caption in captions_of("train")}
    test = {caption.triple for caption in captions_of("test")}
    assert len(test) == 32
    assert not train & test


def test_every_word_still_occurs_in_training():
    words = {word for caption in all_captions() for word in caption.text.split()}
    assert words == {word for caption in captions_of("train") for word in caption.text.split()}


@pytest.mark.parametrize("split", ["train", "test"])
def test_prompt_files_equal_the_code(split: Split):
    assert read_prompts(split) == [caption.text for caption in captions_of(split)]


def test_a_sentence_of_another_form_is_refused():
    with pytest.raises(ValueError, match="Not a pocket caption"):
        parse_caption("a photo of an astronaut")


def test_an_unknown_value_is_named():
    with pytest.raises(ValueError, match="Unknown colour 'pink'"):
        parse_caption("a small pink circle on a white background left")
