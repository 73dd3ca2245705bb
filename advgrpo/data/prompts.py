"""Prompt files: UTF-8 text, one prompt a line."""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from advgrpo.config import PromptsConfig
from advgrpo.errors import PromptFileError, StorageNotFoundError
from advgrpo.records import PromptSet
from advgrpo.storage import local_file

LONGEST_PROMPT = 10_000
"""Characters; no text encoder reads as many, so a longer line is none that was meant."""

_LISTED = 12
_QUOTED = re.compile(r'"([^"]+)"|“([^”]+)”')
# The last one is a byte order mark, which files that were put together have in their middle.
_CONTROL_CHARACTER = re.compile(r"[\x00-\x08\x0a-\x1f\x7f\ufeff]")
_SURROGATE = re.compile("[\ud800-\udfff]")
_CJK_IDEOGRAPH = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af]")


def read_prompts(location: str | Path, *, sha256: str | None = None) -> PromptSet:
    """Read a prompt file.

    White space around a prompt does not count; prompts are compared without it. A byte order mark
    and empty lines at the end are accepted, empty lines before the last prompt are not.

    Args:
        location: A local path, `s3://bucket/key` or `package://python.package/name`.
        sha256: What the file's hash must be, in hexadecimal; none accepts any.

    Returns:
        At least one prompt, in the order of the file, no two equal.

    Raises:
        PromptFileError: If the file is missing, another than expected, not UTF-8, empty, or holds
            empty lines, control characters, lines that are too long or the same prompt twice. Names
            the file and the lines.
        StorageError: If the file cannot be fetched.
    """
    lines = _read_text(location, sha256).rstrip().split("\n")
    texts = tuple(line.strip() for line in lines)
    if texts == ("",):
        raise PromptFileError(
            f"prompt file {location} holds no prompt", repair="write one prompt a line"
        )
    return checked_prompts(
        texts,
        where=f"prompt file {location}",
        unit="line",
        repair="remove these lines, or write each prompt once on a line of its own",
        location=str(location),
    )


def checked_prompts(
    texts: Sequence[str], *, where: str, unit: str, repair: str, location: str = ""
) -> PromptSet:
    """Refuse prompts that cannot be drawn, or that are there twice.

    Args:
        texts: The prompts.
        where: What holds them, for the error.
        unit: What each stands in, for instance "line".
        repair: What the user can do.
        location: The file that holds them, if there is one.

    Raises:
        PromptFileError: If one is empty, there twice, too long, or holds control characters or
            bytes that are no text. Names the first dozen by their number.
    """
    problems = _problems(texts, unit)
    if problems:
        listed = "".join(f"\n  - {problem}" for problem in problems[:_LISTED])
        more = len(problems) - _LISTED
        raise PromptFileError(
            f"{where} cannot be used:{listed}"
            + (f"\n  and {more} more like these" if more > 0 else ""),
            repair=repair,
        )
    return PromptSet(texts=tuple(texts), digest=_digest(texts), location=location)


def quoted_texts(prompt: str) -> list[str]:
    """List the texts that a prompt quotes; those of nothing but spaces do not count."""
    texts = (plain or typographic for plain, typographic in _QUOTED.findall(prompt))
    return [text for text in texts if text.strip()]


def check_disjoint(train: PromptSet, test: PromptSet) -> None:
    """Refuse prompts that would be both trained on and measured on.

    Raises:
        PromptFileError: If a prompt stands in both sets. Names the prompts and their lines.
    """
    train_lines = {text: number for number, text in enumerate(train.texts, start=1)}
    shared = [
        f"line {number} of the test prompts is line {train_lines[text]} of the training prompts: "
        f"{text!r}"
        for number, text in enumerate(test.texts, start=1)
        if text in train_lines
    ]
    if shared:
        listed = "".join(f"\n  - {line}" for line in shared[:_LISTED])
        raise PromptFileError(
            f"{len(shared)} of the {len(test)} prompts of prompts.test are trained on:{listed}",
            repair="remove them from the file of prompts.train or of prompts.test",
        )


def language_of(prompt: str) -> Literal["en", "zh"]:
    """Tell a prompt's language: Chinese if it has a CJK ideograph, else English."""
    return "zh" if _CJK_IDEOGRAPH.search(prompt) else "en"


def _read_text(location: str | Path, sha256: str | None) -> str:
    try:
        data = local_file(str(location)).read_bytes()
    except StorageNotFoundError as error:
        raise PromptFileError(
            f"there is no prompt file {location}",
            repair="give the location of a UTF-8 file with one prompt a line",
        ) from error
    found = hashlib.sha256(data).hexdigest()
    if sha256 is not None and found != sha256:
        raise PromptFileError(
            f"prompt file {location} is not the one that the settings name: its SHA-256 is "
            f"{found}, not {sha256}",
            repair="restore the file, or correct prompts.train_sha256 or prompts.test_sha256",
        )
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise PromptFileError(
            f"prompt file {location} is not UTF-8: line {line} holds the byte "
            f"0x{data[error.start]:02x}",
            repair="save the file as UTF-8",
        ) from error


def _problems(texts: Sequence[str], unit: str) -> list[str]:
    problems: list[str] = []
    places: dict[str, list[int]] = {}
    for number, text in enumerate(texts, start=1):
        if not text:
            problems.append(f"{unit} {number} is empty")
        elif character := _CONTROL_CHARACTER.search(text):
            problems.append(f"{unit} {number} holds the control character {character[0]!r}")
        elif _SURROGATE.search(text):
            problems.append(f"{unit} {number} holds bytes that are no UTF-8")
        elif len(text) > LONGEST_PROMPT:
            problems.append(
                f"{unit} {number} has {len(text)} characters, more than {LONGEST_PROMPT}"
            )
        else:
            places.setdefault(text, []).append(number)
    for text, numbers in places.items():
        if len(numbers) > 1:
            where = ", ".join(str(number) for number in numbers)
            problems.append(f"{unit}s {where} are the same prompt {text!r}")
    return problems


def _digest(texts: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()


@dataclass(frozen=True)
class Prompts:
    """A run's prompts."""

    train: PromptSet
    test: PromptSet


def read_run_prompts(config: PromptsConfig) -> Prompts:
    """Read both prompt files.

    Raises:
        PromptFileError: If one cannot be used or was changed, or a prompt stands in both.
        StorageError: If one cannot be fetched.
    """
    prompts = Prompts(
        train=read_prompts(config.train, sha256=config.train_sha256),
        test=read_prompts(config.test, sha256=config.test_sha256),
    )
    check_disjoint(prompts.train, prompts.test)
    return prompts
