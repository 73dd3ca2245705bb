"""The pocket tokenizers, built from a fixed word list.

Training a tokenizer gives another vocabulary in each process, so these are written out: every word
of the captions is one token, and any other text falls back to letters (CLIP) or to `<unk>` (T5).
"""

from __future__ import annotations

import string
from itertools import pairwise

from transformers import CLIPTokenizer, T5TokenizerFast

from advgrpo.pocket.captions import ATTRIBUTES

CLIP_LENGTH = 12
"""Tokens of a caption for the CLIP encoders: start, nine words, end, and one of padding."""

T5_LENGTH = 10
"""Tokens of a caption for T5: nine words and the end. Pass it as `max_sequence_length`."""

_END = "</w>"
_START_OF_TEXT, _END_OF_TEXT = "<|startoftext|>", "<|endoftext|>"


def caption_words() -> list[str]:
    """List every word that occurs in a caption, in a fixed order."""
    words = ["a", "on", "background"]
    return words + [value for values in ATTRIBUTES.values() for value in values]


def build_clip_tokenizer() -> CLIPTokenizer:
    """Build the tokenizer of the two CLIP text encoders and of the pocket PickScore."""
    # CLIP's tokenizer lowercases and marks the end of each word, so a letter needs two tokens.
    pieces = list(string.ascii_lowercase) + [letter + _END for letter in string.ascii_lowercase]
    merges: list[tuple[str, str]] = []
    for word in caption_words():
        # Merges are only appended, so an earlier word keeps its spelling: lower ranks go first.
        symbols = _apply_merges([*word[:-1], word[-1] + _END], merges)
        while len(symbols) > 1:
            merges.append((symbols[0], symbols[1]))
            symbols = [symbols[0] + symbols[1], *symbols[2:]]
            if symbols[0] not in pieces:
                pieces.append(symbols[0])
    # The end token has the highest id, as in CLIP's vocabulary: old versions of the model find it
    # by argmax.
    vocabulary = {piece: i for i, piece in enumerate([*pieces, _START_OF_TEXT, _END_OF_TEXT])}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=CLIP_LENGTH)


def build_t5_tokenizer() -> T5TokenizerFast:
    """Build the tokenizer of the T5 encoder."""
    # The ids 0, 1 and 2 of T5's special tokens follow from this order.
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    # Scores are log-probabilities: words must be more likely than a lone space mark.
    words = [(f"▁{word}", -1.0) for word in caption_words()]
    return T5TokenizerFast(vocab=special + words, extra_ids=0, model_max_length=T5_LENGTH)


def _apply_merges(symbols: list[str], merges: list[tuple[str, str]]) -> list[str]:
    """Apply byte-pair merges to a word, those of the lowest rank first."""
    rank = {pair: i for i, pair in enumerate(merges)}
    while True:
        known = [(rank[p], i) for i, p in enumerate(pairwise(symbols)) if p in rank]
        if not known:
            return symbols
        _, at = min(known)
        symbols = [*symbols[:at], symbols[at] + symbols[at + 1], *symbols[at + 2 :]]
