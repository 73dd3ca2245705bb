from __future__ import annotations

from pathlib import Path

from advgrpo.pocket.captions import all_captions
from advgrpo.pocket.tokenizers import (
    CLIP_LENGTH,
    T5_LENGTH,
    build_clip_tokenizer,
    build_t5_tokenizer,
    caption_words,
)


def test_every_word_of_a_caption_is_one_token():
    clip, t5 = build_clip_tokenizer(), build_t5_tokenizer()
    for word in caption_words():
        assert len(clip(word, add_special_tokens=False).input_ids) == 1
        assert clip.unk_token_id not in clip(word, add_special_tokens=False).input_ids
        assert len(t5(word, add_special_tokens=False).input_ids) == 1
        assert t5.unk_token_id not in t5(word).input_ids


def test_no_caption_is_truncated():
    clip, t5 = build_clip_tokenizer(), build_t5_tokenizer()
    texts = [caption.text for caption in all_captions()]
    assert max(len(ids) for ids in clip(texts).input_ids) <= CLIP_LENGTH
    assert max(len(ids) for ids in t5(texts).input_ids) <= T5_LENGTH


def test_saved_tokenizers_read_captions_alike(tmp_path: Path):
    texts = [caption.text for caption in all_captions()[::50]]
    for i, tokenizer in enumerate([build_clip_tokenizer(), build_t5_tokenizer()]):
        tokenizer.save_pretrained(tmp_path / str(i))
        loaded = type(tokenizer).from_pretrained(tmp_path / str(i))
        assert loaded(texts).input_ids == tokenizer(texts).input_ids
