"""What can be wrong with a reference image set, and where it is."""

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from advgrpo.data.images import FILE_ENDINGS, decode_image
from advgrpo.data.reference_manifest import MANIFEST_FILE, PROVENANCE_FILE, Provenance
from advgrpo.errors import StorageError
from advgrpo.progress import Progress
from advgrpo.records import PromptSet
from advgrpo.storage.local import disk_errors

_CHUNK = 256


class ProblemKind(StrEnum):
    """What can be wrong with a reference image set."""

    UNREADABLE_LIST = "unreadable list"
    TOO_FEW = "prompt without enough images"
    UNKNOWN_PROMPT = "unknown prompt"
    LISTED_TWICE = "file listed twice"
    MISSING = "missing file"
    DAMAGED = "damaged file"
    WRONG_SIZE = "file of another size"
    WRONG_CONTENT = "file of another content"
    SAME_CONTENT = "repeated image"
    EXTRA = "extra file"


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a reference image set."""

    kind: ProblemKind
    text: str
    """What is wrong with what, as a clause."""


@dataclass(frozen=True)
class FileCheck:
    """What was found in a file: hash and size, or what is wrong with it."""

    sha256: str = ""
    """Of the content, in hexadecimal; empty if the file could not be read."""

    height: int = 0
    width: int = 0
    problem: Problem | None = None


def check_files(folder: Path, names: Sequence[str]) -> dict[str, FileCheck]:
    """Read, hash and decode files."""
    checks: dict[str, FileCheck] = {}
    progress = Progress("checking reference images", len(names), "images")
    # Reading, hashing and decoding all let other threads run meanwhile.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, len(names), _CHUNK):
            chunk = names[start : start + _CHUNK]
            found = pool.map(lambda name: _check_file(folder, name), chunk)
            checks.update(zip(chunk, found, strict=True))
            progress.advance(len(chunk))
    return checks


def _check_file(folder: Path, name: str) -> FileCheck:
    path = folder / name
    if not path.is_file():
        return FileCheck(problem=Problem(ProblemKind.MISSING, f"{name} is missing"))
    try:
        with disk_errors("read", path):
            data = path.read_bytes()
        image = decode_image(data)
    except StorageError as error:
        return FileCheck(problem=Problem(ProblemKind.DAMAGED, error.message))
    except ValueError as error:
        return FileCheck(problem=Problem(ProblemKind.DAMAGED, f"{name} {error}"))
    return FileCheck(hashlib.sha256(data).hexdigest(), image.shape[1], image.shape[2])


def commonest_side(checks: Iterable[FileCheck]) -> int:
    """Find the height that most images have; 0 if there are none."""
    sides = Counter(check.height for check in checks if check.problem is None)
    return sides.most_common(1)[0][0] if sides else 0


def prompt_problems(
    listed: Mapping[str, Sequence[str]], prompts: PromptSet, wanted: int
) -> Iterable[Problem]:
    """Find prompts that have fewer files than wanted."""
    for prompt in prompts.texts:
        found = len(listed.get(prompt, ()))
        if found < wanted:
            text = f"{prompt!r} has {found} of the {wanted} reference images asked for"
            yield Problem(ProblemKind.TOO_FEW, text)


def unknown_prompts(
    manifest: Mapping[str, Sequence[str]], known: Collection[str]
) -> Iterable[Problem]:
    """Find prompts that nobody knows of, as when the prompt file was changed."""
    for prompt in sorted(manifest.keys() - set(known)):
        yield Problem(ProblemKind.UNKNOWN_PROMPT, f"{prompt!r} is not in the prompt file")


def listing_problems(manifest: Mapping[str, Sequence[str]]) -> Iterable[Problem]:
    """Find files that are listed more than once."""
    owners: dict[str, list[str]] = defaultdict(list)
    for prompt, names in manifest.items():
        for name in names:
            owners[name].append(prompt)
    for name, prompts in owners.items():
        if len(prompts) > 1:
            distinct = " and ".join(repr(prompt) for prompt in dict.fromkeys(prompts))
            text = f"{name} is listed {len(prompts)} times, for {distinct}"
            yield Problem(ProblemKind.LISTED_TWICE, text)


def file_problems(
    checks: Mapping[str, FileCheck], pixels: int, provenance: Provenance | None
) -> Iterable[Problem]:
    """Find files that are unreadable, of another size than `pixels`, or not what was drawn."""
    for name, check in checks.items():
        expected = provenance.files.get(name, "nothing") if provenance else None
        if check.problem is not None:
            yield check.problem
        elif (check.height, check.width) != (pixels, pixels):
            text = f"{name} is {check.width} x {check.height} pixels, not {pixels} x {pixels}"
            yield Problem(ProblemKind.WRONG_SIZE, text)
        elif expected is not None and expected != check.sha256:
            text = f"{name} has SHA-256 {check.sha256[:12]}, {PROVENANCE_FILE} says {expected[:12]}"
            yield Problem(ProblemKind.WRONG_CONTENT, text)


def repeated_content(sha256: Mapping[str, str]) -> list[Problem]:
    """Find files that are copies of each other.

    Args:
        sha256: File name -> hash of its content; empty for a file that could not be read.
    """
    names_by_hash: dict[str, list[str]] = defaultdict(list)
    for name, content in sha256.items():
        if content:
            names_by_hash[content].append(name)
    return [
        Problem(ProblemKind.SAME_CONTENT, f"{', '.join(names)} hold the same image")
        for names in names_by_hash.values()
        if len(names) > 1
    ]


def unlisted_files(folder: Path, manifest: Mapping[str, Sequence[str]]) -> Iterable[Problem]:
    """Find image files that belong to no prompt."""
    for name in extra_files(folder, {name for names in manifest.values() for name in names}):
        yield Problem(ProblemKind.EXTRA, f"{name} belongs to no prompt of {MANIFEST_FILE}")


def extra_files(folder: Path, names: Collection[str]) -> list[str]:
    """List image files below a folder, other than those named; hidden ones do not count."""
    known, extra = set(names), []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        hidden = any(part.startswith(".") for part in name.parts)
        is_image = path.suffix.lower() in FILE_ENDINGS and path.is_file()
        if is_image and not hidden and name.as_posix() not in known:
            extra.append(name.as_posix())
    return extra
