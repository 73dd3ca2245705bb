"""Search in one target, in its own process.

A failing input does not end the search: each one that fails at a new location is stored, with its
traceback. An input that exceeds the time or memory limit ends the process, and is stored, too.
Processes are forked, because torch and diffusers take half a minute to load with instrumentation.
"""

import hashlib
import io
import logging
import os
import re
import shutil
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Sequence
from contextlib import redirect_stderr
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

import atheris

# Modules are instrumented while they are imported, so none may be loaded before. Others are left
# out: their branches would only dilute the coverage. atheris prints a line per module to stderr.
with (
    redirect_stderr(io.StringIO()),
    atheris.instrument_imports(
        include=["advgrpo", "csv", "http", "json", "PIL", "safetensors", "tarfile", "yaml"]
    ),
):
    from studies.fuzz.mutations import Mutate
    from studies.fuzz.targets import TARGETS, Target

from studies.fuzz.contract import LONGEST_SECONDS, MOST_MIB
from studies.fuzz.counts import Explored, parse_counts

LOG = "log.txt"

_IN_MEMORY = Path("/dev/shm")  # noqa: S108 - used with TemporaryDirectory
"""Folder in memory: on a disk, targets that write files would mostly wait."""

_WORD = re.compile(rb"[A-Za-z_][\w.]{2,30}")
_WORDS = 500
_SEED_SHARE = 0.2
_ODD_WORDS = (b"null", b"true", b"NaN", b"-Infinity", b"1e999", b"[[", b"{}", b"\\ud800", b"../")


def explore(name: str, folder: Path, *, seconds: int, seed: int) -> Explored:
    """Fuzz a target in its own process.

    Args:
        name: Name of the target.
        folder: Folder of finds and of the corpus, from which the next search starts.
        seconds: Time limit.
        seed: Random seed; the same corpus and seed start the same search.
    """
    corpus, finds = folder / "corpus" / name, folder / "finds" / name
    shutil.rmtree(finds, ignore_errors=True)
    for made in (corpus, finds):
        made.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    with TemporaryDirectory(dir=_IN_MEMORY if _IN_MEMORY.is_dir() else None) as scratch:
        child = os.fork()
        if child == 0:
            _search(TARGETS[name], corpus, finds, Path(scratch), seconds, seed)
        _, status = os.waitpid(child, 0)
    found = tuple(str(p) for p in sorted(finds.iterdir()) if p.suffix != ".txt")
    if status and not found:
        found = (str(finds / LOG),)
    log = (finds / LOG).read_text(encoding="utf-8", errors="replace")
    return parse_counts(name, log, time.monotonic() - start, found)


def _search(
    target: Target, corpus: Path, finds: Path, scratch: Path, seconds: int, seed: int
) -> None:
    """Run the search in a forked process, which libFuzzer ends."""
    try:
        log = os.open(finds / LOG, os.O_CREAT | os.O_WRONLY)
        for stream in (1, 2):
            os.dup2(log, stream)
        seeds = target.seeds()
        for data in seeds:
            (corpus / hashlib.sha256(data).hexdigest()).write_bytes(data)
        words, place = scratch / "words", scratch / "place"
        words.write_text(dictionary(seeds), encoding="ascii")
        place.mkdir()
        os.chdir(scratch)
        warnings.simplefilter("ignore")
        logging.disable()
        options = {
            "artifact_prefix": f"{finds}/",
            "dict": words,
            "max_len": target.longest,
            "max_total_time": seconds,
            "print_final_stats": 1,
            # Compiled code such as pydantic's has no coverage, so libFuzzer would replace a long
            # input by a shorter one that tests less.
            "reduce_inputs": 0,
            "rss_limit_mb": MOST_MIB,
            "seed": seed,
            "timeout": LONGEST_SECONDS,
        }
        atheris.Setup(
            ["fuzz", str(corpus), *(f"-{name}={value}" for name, value in options.items())],
            record_finds(target, place, finds),
            custom_mutator=_mutator(target.mutate, seeds),
        )
        atheris.Fuzz()
    except BaseException:  # noqa: BLE001 - a fork must not continue as its parent
        traceback.print_exc()
    os._exit(1)


def record_finds(target: Target, place: Path, finds: Path) -> Callable[[bytes], None]:
    """Return a function that runs inputs and stores failing ones, one per location."""
    seen: set[tuple[str, str, int | None]] = set()

    def take(data: bytes) -> None:
        try:
            target.take(data, place)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001 - any exception is a find
            frame = traceback.extract_tb(error.__traceback__)[-1]
            fault = (type(error).__name__, frame.filename, frame.lineno)
            if fault not in seen:
                seen.add(fault)
                _store(data, error, finds)

    return take


def _store(data: bytes, error: BaseException, finds: Path) -> None:
    name = f"{type(error).__name__}-{hashlib.sha256(data).hexdigest()[:12]}"
    (finds / name).write_bytes(data)
    text = "".join(traceback.format_exception(error))
    (finds / f"{name}.txt").write_text(text, encoding="utf-8", errors="backslashreplace")


def _mutator(mutate: Mutate, seeds: Sequence[bytes]) -> Callable[[bytes, int, int], bytes]:
    """Return a mutator for the target's format, which starts from a seed now and then."""

    def change(data: bytes, longest: int, seed: int) -> bytes:
        def plain(part: bytes) -> bytes:
            return bytes(atheris.Mutate(part, max(longest, len(part))))

        rng = Random(seed)
        base = rng.choice(seeds) if rng.random() < _SEED_SHARE else data
        return mutate(base, rng, plain)[:longest]

    return change


def dictionary(seeds: Iterable[bytes]) -> str:
    """Return a libFuzzer dictionary with the words of the seeds and some odd values."""
    words = dict.fromkeys(word for data in seeds for word in _WORD.findall(data))
    escaped = (
        "".join(rf"\x{byte:02x}" for byte in word) for word in [*_ODD_WORDS, *words][:_WORDS]
    )
    return "".join(f'"{word}"\n' for word in escaped)
