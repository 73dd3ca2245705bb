"""Checks of the files and lists of a reference image set."""

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path, PurePosixPath

from advgrpo.data.picture_files import FILE_ENDINGS, decode_file
from advgrpo.errors import StorageError
from advgrpo.records import PromptSet
from advgrpo.reference_images.check_record import CheckRecord, ValidFile
from advgrpo.reference_images.manifest import MANIFEST_FILE, PROVENANCE_FILE, Provenance
from advgrpo.storage.base import FileState
from advgrpo.storage.files import read_bytes
from advgrpo.storage.locations import join, scheme
from advgrpo.telemetry.progress import Progress

JOURNALS = "journal*.jsonl"
"""Pattern of the journals of a set that is being generated."""

_CHUNK = 256
# Results are recorded after 8 chunks, so an interruption loses at most 2048 of them.
_CHUNKS_PER_RECORD = 8
_REMOTE_THREADS = 32
_EXAMPLES = 3
_SHOWN = 80


class ProblemKind(StrEnum):
    """Kinds of problems of a reference image set."""

    UNREADABLE_LIST = "unreadable list"
    ABSENT_PROMPT = "missing prompt"
    UNKNOWN_PROMPT = "unknown prompt"
    TOO_FEW = "prompt without enough images"
    LISTED_TWICE = "file listed twice"
    MISSING = "missing file"
    OUTSIDE = "file outside of the folder"
    DAMAGED = "damaged file"
    WRONG_SIZE = "file of another size"
    WRONG_CONTENT = "file of another content"
    SAME_CONTENT = "repeated image"
    EXTRA = "extra file"


@dataclass(frozen=True)
class Problem:
    """A problem of a reference image set."""

    kind: ProblemKind
    text: str
    """Description, as a clause."""

    count: int = 1
    """Number of affected prompts or files."""


FileCheck = ValidFile | Problem
"""Result of checking a file."""


def check_files(
    root: str,
    names: Sequence[str],
    listing: Mapping[str, FileState],
    record: CheckRecord | None = None,
) -> dict[str, FileCheck]:
    """Read, hash and decode files, several at a time.

    Args:
        root: Folder or `s3://` location of the files.
        names: Files to check.
        listing: All files at the location.
        record: Results of earlier checks, which are reused; new results are added.
    """
    # The record does not hold problems, so files that were repaired or restored are always checked
    # again.
    checks: dict[str, FileCheck] = dict(record.known(listing)) if record else {}
    remaining = [name for name in names if name not in checks]
    progress = Progress("checking reference images", len(names), "images")
    progress.resume_at(len(names) - len(remaining))
    # Requests to an object store wait for the network, not for a core.
    threads = _REMOTE_THREADS if scheme(root) else os.cpu_count()
    unrecorded: dict[str, ValidFile] = {}
    # Reading, hashing and decoding all release the GIL.
    with ThreadPoolExecutor(threads) as pool:
        for start in range(0, len(remaining), _CHUNK):
            chunk = remaining[start : start + _CHUNK]
            results = pool.map(lambda name: _check_file(root, name, listing), chunk)
            checks.update(zip(chunk, results, strict=True))
            unrecorded |= {n: c for n in chunk if isinstance(c := checks[n], ValidFile)}
            if record and len(unrecorded) >= _CHUNK * _CHUNKS_PER_RECORD:
                record.add(unrecorded, listing)
                unrecorded = {}
            progress.advance(len(chunk))
    if record:
        record.add(unrecorded, listing)
    # In the order of `names`: the record comes first in `checks`, and may hold files of other
    # splits.
    return {name: checks[name] for name in names}


def _check_file(root: str, name: str, listing: Mapping[str, FileState]) -> FileCheck:
    # An object store has no symbolic links.
    if not scheme(root) and _leads_out(root, name):
        text = f"{name} is reached by a symbolic link that leads out of {root}"
        return Problem(ProblemKind.OUTSIDE, text)
    if name not in listing:
        return Problem(ProblemKind.MISSING, f"{name} is missing")
    try:
        data = read_bytes(join(root, name))
        picture, changes = decode_file(data)
    # The file may have been deleted or become unreadable after it was listed.
    except StorageError as error:
        return Problem(ProblemKind.DAMAGED, error.message)
    except ValueError as error:
        return Problem(ProblemKind.DAMAGED, f"{name} {error}")
    sha256 = hashlib.sha256(data).hexdigest()
    return ValidFile(sha256, picture.height, picture.width, changes)


def _leads_out(folder: str, name: str) -> bool:
    # Unlike Path.resolve, realpath does not fail for overlong names and symlink loops.
    return not Path(os.path.realpath(f"{folder}/{name}")).is_relative_to(os.path.realpath(folder))


def describe_changes(changes: Mapping[str, Sequence[str]]) -> str:
    """Describe which pictures are not used as they are stored, one line for each kind of change.

    Args:
        changes: File name -> what is done to its pixels.
    """
    files: dict[str, list[str]] = defaultdict(list)
    for name, made in changes.items():
        for change in made:
            files[change].append(name)
    return "".join(
        f"\n{len(names)} images are {change}, for instance {names[0]}"
        for change, names in files.items()
    )


def most_common_side(checks: Iterable[FileCheck]) -> int:
    """Return the most common height of the images; 0 without images."""
    sides = Counter(check.height for check in checks if isinstance(check, ValidFile))
    return sides.most_common(1)[0][0] if sides else 0


def prompt_problems(
    manifest: Mapping[str, Sequence[str]],
    prompts: PromptSet,
    wanted: int,
    *,
    others: PromptSet | None,
    where: str,
) -> Iterable[Problem]:
    """Find missing prompts, unknown prompts, and prompts with too few files.

    Args:
        manifest: Prompt -> files.
        prompts: Prompts that need images.
        wanted: Images of each prompt.
        others: Further prompts that the set may hold.
        where: Location of the manifest, or of several.
    """
    # One problem for all absent prompts: with the wrong prompt file, it would be one per prompt.
    if absent := [prompt for prompt in prompts.texts if prompt not in manifest]:
        text = (
            f"{len(absent)} of the {len(prompts)} prompts of {prompts.location or 'the run'} are "
            f"not in {where}, {_examples(absent)}"
        )
        yield Problem(ProblemKind.ABSENT_PROMPT, text, len(absent))
    sets = [prompts, *([others] if others else [])]
    known = {text for each in sets for text in each.texts}
    if unknown := [prompt for prompt in manifest if prompt not in known]:
        files = " or ".join(each.location or "the prompts of the run" for each in sets)
        text = (
            f"{len(unknown)} of the {len(manifest)} prompts of {where} are not in {files}, "
            f"{_examples(unknown)}"
        )
        yield Problem(ProblemKind.UNKNOWN_PROMPT, text, len(unknown))
    for prompt in prompts.texts:
        found = len(manifest.get(prompt, ()))
        # Absent prompts are reported above.
        if prompt in manifest and found < wanted:
            text = f"{_shortened(prompt)} has {found} of {wanted} reference images"
            yield Problem(ProblemKind.TOO_FEW, text)


def _examples(prompts: Sequence[str]) -> str:
    return "for instance " + ", ".join(_shortened(prompt) for prompt in prompts[:_EXAMPLES])


def _shortened(prompt: str) -> str:
    return repr(prompt if len(prompt) <= _SHOWN else f"{prompt[:_SHOWN]}…")


def listing_problems(manifest: Mapping[str, Sequence[str]]) -> Iterable[Problem]:
    """Find files that are listed more than once."""
    owners: dict[str, list[str]] = defaultdict(list)
    for prompt, names in manifest.items():
        for name in names:
            owners[name].append(prompt)
    for name, prompts in owners.items():
        if len(prompts) > 1:
            # A file may also be listed twice for one prompt.
            distinct = " and ".join(repr(prompt) for prompt in dict.fromkeys(prompts))
            text = f"{name} is listed {len(prompts)} times, for {distinct}"
            yield Problem(ProblemKind.LISTED_TWICE, text)


def file_problems(
    checks: Mapping[str, FileCheck], pixels: int, provenance: Provenance | None
) -> Iterable[Problem]:
    """Find files that are invalid, of another size than `pixels`, or changed since generation."""
    for name, check in checks.items():
        # A file that the provenance does not list differs from every hash, so it is reported too.
        expected = provenance.files.get(name, "nothing") if provenance else None
        if isinstance(check, Problem):
            yield check
        elif (check.height, check.width) != (pixels, pixels):
            text = f"{name} is {check.width} x {check.height} pixels, not {pixels} x {pixels}"
            yield Problem(ProblemKind.WRONG_SIZE, text)
        elif expected is not None and expected != check.sha256:
            wanted = f"{expected[:12]} of {PROVENANCE_FILE}"
            text = f"{name} has SHA-256 {check.sha256[:12]}, not {wanted}"
            yield Problem(ProblemKind.WRONG_CONTENT, text)


def repeated_content(sha256: Mapping[str, str]) -> list[Problem]:
    """Find files that are copies of each other.

    Args:
        sha256: File name -> SHA-256 of its content; empty for unreadable files.
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


def unlisted_files(
    listing: Collection[str], manifest: Mapping[str, Sequence[str]]
) -> Iterable[Problem]:
    """Find image files without a prompt; none while the set grows, whose manifest comes last."""
    if any(PurePosixPath(name).match(JOURNALS) for name in listing):
        return
    for name in extra_files(listing, {name for names in manifest.values() for name in names}):
        yield Problem(ProblemKind.EXTRA, f"{name} belongs to no prompt of {MANIFEST_FILE}")


def extra_files(listing: Iterable[str], names: Collection[str]) -> list[str]:
    """Return the image files that are not among `names`, without hidden ones."""
    known = set(names)
    return [
        name
        for name in listing
        # The manifest, journals and records of checks lie in the same folder as the images.
        if name not in known
        and Path(name).suffix.lower() in FILE_ENDINGS
        and not any(part.startswith(".") for part in Path(name).parts)
    ]
