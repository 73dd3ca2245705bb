"""Prompt files: UTF-8 text, one prompt a line."""

import hashlib
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NoReturn

from advgrpo.config.reference_images import PromptsConfig
from advgrpo.config.run import RunConfig
from advgrpo.data.prompt_text import (
    Numbered,
    describe_equal,
    encoder_key,
    find_fault,
    group_equal,
    shown,
)
from advgrpo.errors import PromptFileError, StorageNotFoundError
from advgrpo.records import PromptSet
from advgrpo.storage.fetch import local_file

Split = Literal["train", "test"]
SPLITS: tuple[Split, ...] = ("train", "test")

_LISTED = 12
_QUOTED = re.compile(r'"([^"]+)"|“([^”]+)”')
_CJK_IDEOGRAPH = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af]")


def read_prompts(
    location: str | Path,
    *,
    setting: str = "prompts.train",
    sha256: str | None = None,
    key: Callable[[str], str] = encoder_key,
) -> PromptSet:
    """Read a prompt file.

    White space around a prompt is ignored. A byte order mark and empty lines at the end are
    accepted, empty lines before the last prompt are not.

    Args:
        location: A local path, `s3://bucket/key` or `package://python.package/name`.
        setting: Setting that names the file, for errors.
        sha256: Expected hash of the file, in hexadecimal; None accepts any.
        key: Prompts are duplicates if their keys are equal; by default, if a text encoder sees the
            same.

    Returns:
        At least one prompt, in the order of the file, without duplicates.

    Raises:
        PromptFileError: If the file does not exist, has another hash, is not UTF-8, is empty, or
            holds empty lines, control characters, lines that are too long or duplicate prompts.
            Names the file and the lines.
        StorageError: If the file cannot be fetched.
    """
    try:
        data = local_file(str(location)).read_bytes()
    except StorageNotFoundError as error:
        raise PromptFileError(
            f"prompt file {location} does not exist",
            repair=f"set {setting} to the location of a UTF-8 file with one prompt per line",
        ) from error
    file_sha256 = hashlib.sha256(data).hexdigest()
    # Before the content is checked: a file that changed needs one repair, not a list of faulty
    # lines.
    if sha256 is not None and file_sha256 != sha256:
        raise PromptFileError(
            f"{setting}_sha256={sha256}: prompt file {location} has SHA-256 {file_sha256}",
            repair=f"restore the file, or set {setting}_sha256={file_sha256}",
        )
    prompts = checked_prompts(
        split_lines(data, location),
        where=f"prompt file {location}",
        unit="line",
        repair="remove these lines, or write each prompt once on its own line; `advgrpo prompts "
        f"import {location} --drop-repeats --strip-byte-order-marks --output FILE` does so",
        location=str(location),
        key=key,
    )
    return replace(prompts, file_sha256=file_sha256)


def checked_prompts(
    prompts: Sequence[Numbered],
    *,
    where: str,
    unit: str,
    repair: str,
    location: str = "",
    key: Callable[[str], str] = encoder_key,
) -> PromptSet:
    """Return prompts as a set, after checking each.

    Args:
        prompts: The prompts, with their numbers.
        where: Source of the prompts, for the error.
        unit: What the numbers count, for instance "line".
        repair: Repair for the error.
        location: File of the prompts, if there is one.
        key: Prompts are duplicates if their keys are equal.

    Raises:
        PromptFileError: If a prompt is empty, a duplicate, too long, or holds control characters
            or bytes that are not text. Lists the first dozen by number.
    """
    faults = {number: fault for number, text in prompts if (fault := find_fault(text))}
    # All problems at once, so that a user repairs the file in one go.
    problems = [f"{unit} {number} {fault}" for number, fault in faults.items()]
    # Only valid prompts: empty lines are reported above, not as duplicates of each other.
    groups = group_equal((prompt for prompt in prompts if prompt[0] not in faults), key)
    problems += [describe_equal(group, unit) for group in groups if len(group) > 1]
    if problems:
        refuse(f"{where} cannot be used", problems, repair=repair)
    texts = tuple(text for _, text in prompts)
    return PromptSet(texts=texts, digest=_digest(texts), location=location)


def refuse(message: str, problems: Sequence[str], *, repair: str) -> NoReturn:
    """Raise an error about a prompt file.

    Raises:
        PromptFileError: Always. Lists the first dozen problems.
    """
    listed = "".join(f"\n  - {problem}" for problem in problems[:_LISTED])
    more = len(problems) - _LISTED
    raise PromptFileError(
        f"{message}:{listed}" + (f"\n  and {more} more" if more > 0 else ""), repair=repair
    )


def quoted_texts(prompt: str) -> list[str]:
    """Return the quoted texts of a prompt, without blank ones."""
    texts = (plain or typographic for plain, typographic in _QUOTED.findall(prompt))
    return [text for text in texts if text.strip()]


def check_disjoint(train: PromptSet, test: PromptSet) -> None:
    """Raise an error if a text encoder sees a prompt of both sets as the same.

    Raises:
        PromptFileError: If it does. Names the prompts and their lines.
    """
    train_lines: dict[str, Numbered] = {}
    for number, text in enumerate(train.texts, start=1):
        train_lines.setdefault(encoder_key(text), (number, text))
    shared = [
        _describe_shared((number, text), train_lines[key])
        for number, text in enumerate(test.texts, start=1)
        # Such a prompt would count as unseen although the policy was trained on it.
        if (key := encoder_key(text)) in train_lines
    ]
    if shared:
        refuse(
            f"{len(shared)} of the {len(test)} prompts of prompts.test are also in prompts.train",
            shared,
            repair="remove them from one of the two files, for instance by `advgrpo prompts import "
            f"{train.location or 'TRAIN'} --exclude {test.location or 'TEST'} --output FILE`",
        )


def _describe_shared(test: Numbered, train: Numbered) -> str:
    lines = f"line {test[0]} of the test prompts is line {train[0]} of the training prompts"
    if test[1] == train[1]:
        return f"{lines}: {test[1]!r}"
    return (
        f"{lines} to a text encoder: {shown(test[1])} and {shown(train[1])} differ in white space, "
        "case or Unicode form"
    )


def language_of(prompt: str) -> Literal["en", "zh"]:
    """Return a prompt's language: Chinese if it has a CJK ideograph, else English."""
    return "zh" if _CJK_IDEOGRAPH.search(prompt) else "en"


def split_lines(data: bytes, location: str | Path) -> list[Numbered]:
    """Split a prompt file into lines without white space around them, and number them.

    Raises:
        PromptFileError: If it is not UTF-8, or empty.
    """
    # Not splitlines(), which also splits at characters within prompts, such as U+2028.
    lines = _decode(data, location).rstrip().split("\n")
    if lines == [""]:
        raise PromptFileError(
            f"prompt file {location} is empty", repair="write one prompt per line into it"
        )
    # Also removes the carriage returns of Windows line ends.
    return [(number, line.strip()) for number, line in enumerate(lines, start=1)]


def _decode(data: bytes, location: str | Path) -> str:
    try:
        # Drops a byte order mark at the start.
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # Counted in the bytes, because nothing could be decoded; no other character of UTF-8
        # contains this byte.
        line = data.count(b"\n", 0, error.start) + 1
        raise PromptFileError(
            f"prompt file {location} is not UTF-8: line {line} holds the byte "
            f"0x{data[error.start]:02x}",
            repair="save the file as UTF-8",
        ) from error


def subset(prompts: PromptSet, positions: Iterable[int]) -> PromptSet:
    """Return some prompts of a set."""
    texts = tuple(prompts.texts[position] for position in positions)
    return PromptSet(texts=texts, digest=_digest(texts), location=prompts.location)


def _digest(texts: Sequence[str]) -> str:
    # Of the prompts, not of the file, so that line ends and white space at the end do not count.
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()


@dataclass(frozen=True)
class Prompts:
    """The two prompt sets of a run."""

    train: PromptSet
    test: PromptSet

    def of(self, split: Split) -> PromptSet:
        """Return the prompts of a split."""
        return self.train if split == "train" else self.test

    def all_besides(self, split: Split) -> PromptSet:
        """Return all prompts, with the location of the other split's: a set may hold any."""
        other = self.test if split == "train" else self.train
        return replace(other, texts=(*self.of(split).texts, *other.texts))

    def resolve(self, config: RunConfig) -> RunConfig:
        """Return settings that pin both prompt files to what was read of them."""
        pinned = config.prompts.model_copy(
            update={
                "train_sha256": self.train.file_sha256,
                "test_sha256": self.test.file_sha256,
            }
        )
        return config.model_copy(update={"prompts": pinned})


def read_run_prompts(config: PromptsConfig) -> Prompts:
    """Read both prompt files of a run.

    Raises:
        PromptFileError: If a file cannot be used or has another hash than the settings give, or if
            a prompt is in both.
        StorageError: If a file cannot be fetched.
    """
    prompts = Prompts(
        train=read_prompts(config.train, setting="prompts.train", sha256=config.train_sha256),
        test=read_prompts(config.test, setting="prompts.test", sha256=config.test_sha256),
    )
    check_disjoint(prompts.train, prompts.test)
    return prompts
