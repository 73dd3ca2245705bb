"""Texts of prompts: what makes one unusable, and which look the same to text encoders."""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable

LONGEST_PROMPT = 10_000
"""Characters. No text encoder reads as many: a longer line is not a prompt but a broken file."""

BYTE_ORDER_MARK = "\ufeff"
"""Concatenated files have one in the middle."""

Numbered = tuple[int, str]
"""The number of a line or of another place, and the prompt in it."""

_SHOWN = 200
_ZERO_WIDTH_SPACE = "\u200b"
_CONTROL_CHARACTER = re.compile(rf"[\x00-\x08\x0a-\x1f\x7f{BYTE_ORDER_MARK}]")
# Undecodable bytes of command-line arguments arrive as lone surrogates.
_SURROGATE = re.compile("[\ud800-\udfff]")


def encoder_key(prompt: str) -> str:
    """Return a text that is equal for prompts that a text encoder does not tell apart.

    CLIP's tokenizer ignores case and composes characters (NFC); T5's replaces compatibility
    characters such as full-width letters (NFKC) and drops invisible ones. Both collapse white
    space.
    """
    # Files have many thousands of prompts, and none of the above occurs in ASCII.
    if prompt.isascii():
        return " ".join(prompt.lower().split())
    separated = prompt.replace(_ZERO_WIDTH_SPACE, " ")
    # Category Cf: soft hyphens, joiners, marks of direction, byte order marks.
    visible = "".join(c for c in separated if unicodedata.category(c) != "Cf")
    return " ".join(unicodedata.normalize("NFKC", visible).lower().split())


def find_fault(text: str) -> str:
    """Return why a text is not a prompt, as the end of a sentence; empty if it is one."""
    if not text:
        return "is empty"
    if character := _CONTROL_CHARACTER.search(text):
        return f"holds the control character {character[0]!r}"
    if _SURROGATE.search(text):
        return "holds bytes that are not UTF-8"
    if len(text) > LONGEST_PROMPT:
        return f"has {len(text)} characters, more than {LONGEST_PROMPT}"
    return ""


def group_equal(
    prompts: Iterable[Numbered], key: Callable[[str], str] = encoder_key
) -> list[list[Numbered]]:
    """Group prompts that are equal by a key, in the order of their first ones."""
    groups: dict[str, list[Numbered]] = defaultdict(list)
    for number, text in prompts:
        groups[key(text)].append((number, text))
    return list(groups.values())


def describe_equal(group: list[Numbered], unit: str) -> str:
    """Describe prompts that an encoder does not tell apart, by their numbers and texts."""
    where = f"{unit}s {', '.join(str(number) for number, _ in group)}"
    texts = list(dict.fromkeys(shown(text) for _, text in group))
    if len({text for _, text in group}) == 1:
        return f"{where} are the same prompt {texts[0]}"
    # Characters that differ may look the same.
    return (
        f"{where} are the same prompt to a text encoder: {' and '.join(texts)} differ in white "
        "space, case or Unicode form"
    )


def shown(text: str) -> str:
    """Return a text in quotes, shortened, so that white space and accents are visible."""
    short = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
    # A decomposed accent looks like a composed one.
    return repr(short) if unicodedata.is_normalized("NFC", short) else ascii(short)
