"""Texts that others write: each is read as it is in a run, and what was understood comes back."""

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import torch

from advgrpo.cluster.settings import CLUSTER, parse_cluster_settings
from advgrpo.config import RunConfig, resolve
from advgrpo.config.parsing import parse
from advgrpo.config.tasks import parse_json
from advgrpo.data.images import encode_png
from advgrpo.data.prompt_tables import read_prompt_table
from advgrpo.data.prompts import read_prompts
from advgrpo.evaluation.records import read_evaluated_prompts, read_report
from advgrpo.evaluation.saving import EVALUATION_FILE, read_evaluation
from advgrpo.models.scorers.external_judge import ExternalJudge, parse_metadata
from advgrpo.reference_images.check_record import CheckRecord
from advgrpo.reference_images.journal import _entries
from advgrpo.reference_images.manifest import (
    MANIFEST_FILE,
    PROVENANCE_FILE,
    read_manifest,
    read_provenance,
    write_manifest,
)
from advgrpo.runtime.failures import read_failure
from advgrpo.runtime.heartbeat import RUN_FILE, RUNS
from advgrpo.runtime.run_status_collection import run_status
from advgrpo.runtime.run_status_text import status_lines
from advgrpo.runtime.timing import read_elapsed
from advgrpo.storage import COMMIT_FILE, join, read_commit
from advgrpo.telemetry.logging import fields_of, lines_to_text
from studies.fuzz.contract import refused

NOW = datetime(2026, 1, 1, tzinfo=UTC)
_SIGNS = (RUN_FILE, "train/rank.json", "train/launcher.json")


def manifest(data: bytes, place: Path) -> None:
    """A set's list of files; no name leads out of the folder."""
    (place / MANIFEST_FILE).write_bytes(data)
    if not refused(lambda: read_manifest(place), place):
        found = read_manifest(place)
        for names in found.values():
            for name in names:
                assert (place / name).resolve().is_relative_to(place.resolve())
        write_manifest(place, found)
        assert read_manifest(place) == found


def provenance(data: bytes, place: Path) -> None:
    """Where a set's files come from."""
    (place / PROVENANCE_FILE).write_bytes(data)
    if not refused(lambda: read_provenance(place), place):
        found = read_provenance(place)
        assert found is not None
        (place / PROVENANCE_FILE).write_bytes(found.model_dump_json().encode())
        assert read_provenance(place) == found


def commit(data: bytes, place: Path) -> None:
    """The hashes of a folder."""
    (place / COMMIT_FILE).write_bytes(data)
    refused(lambda: read_commit(str(place)), place)


def settings(values: Mapping[Any, Any]) -> None:
    """Settings of a run as plain values."""
    if not refused(lambda: parse(RunConfig, values, where="here"), "here"):
        read = parse(RunConfig, values, where="here")
        assert parse(RunConfig, json.loads(read.model_dump_json()), where="there") == read


def settings_as_json(data: bytes) -> None:
    """Settings as a task gets them."""
    text = data.decode(errors="replace")
    if not refused(lambda: parse_json(RunConfig, text, where="here"), "here"):
        settings(json.loads(text))


def preset(data: bytes) -> None:
    """Settings as a user writes them; the first line keeps the text from being taken for a name."""
    text = "# fuzzed\n" + data.decode(errors="replace")
    refused(lambda: resolve(text), "fuzzed")
    refused(lambda: resolve(text, is_draft=True), "fuzzed")


def override(text: str, preset: str = "pocket") -> None:
    """A `--set` of the command line."""
    refused(lambda: resolve(preset, [text], is_draft=True))


def cluster(data: bytes) -> None:
    """The chart's settings."""
    refused(lambda: parse_cluster_settings(data.decode(errors="replace")), CLUSTER)


def prompts(data: bytes, place: Path) -> None:
    """A file of prompts."""
    path = place / "prompts.txt"
    path.write_bytes(data)
    if not refused(lambda: read_prompts(path), path):
        found = read_prompts(path)
        path.write_text("\n".join(found.texts), encoding="utf-8", newline="")
        assert read_prompts(path) == found


def table(data: bytes, kind: str, place: Path) -> None:
    """A table of prompts: `csv`, `tsv` or `jsonl`."""
    path = place / f"table.{kind}"
    path.write_bytes(data)
    refused(lambda: read_prompt_table(str(path), "Prompt"), path)


def inner_names(names: Sequence[str], place: Path) -> None:
    """Names that are to lie within a folder."""
    if not refused(lambda: join(str(place), *names), place):
        inside = Path(os.path.normpath(join(str(place), *names)))
        assert inside.is_relative_to(place)


def metadata(data: bytes) -> None:
    """What an external judge should know of the prompts."""
    text = data.decode(errors="replace")
    refused(lambda: parse_metadata(text, where="facts.jsonl"), "facts.jsonl")


def verdict(data: bytes) -> None:
    """What an external judge answers."""
    judge = ExternalJudge([], verdicts=["correct"], metadata=None, timeout_seconds=1.0)
    text = data.decode(errors="replace")
    refused(lambda: judge._verdicts(text, "0.png", "a cat"), "judge", "a cat")


def log(data: bytes) -> None:
    """What a pod wrote."""
    text = data.decode(errors="replace")
    assert isinstance(lines_to_text(text), str)
    for line in text.split("\n"):
        assert isinstance(fields_of(line), dict)


def signs(data: bytes, place: Path) -> None:
    """Signs of life of a run: the files of its folder by name, or the one that says what it is."""
    files = {RUN_FILE: data}
    with suppress(ValueError, RecursionError):
        found = json.loads(data)
        if isinstance(found, dict) and found.keys() & set(_SIGNS):
            files = {name: json.dumps(content).encode() for name, content in found.items()}
    for name in _SIGNS:
        path = place / RUNS / "run" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(files.get(name, b""))

    def told() -> None:
        for line in status_lines(run_status(str(place), tracking_uri="", now=NOW)):
            assert isinstance(line, str)

    refused(told, place)


def evaluation(data: bytes, place: Path) -> None:
    """An evaluation that was kept."""
    (place / EVALUATION_FILE).write_bytes(data)
    (place / "images").mkdir(exist_ok=True)
    for side in ("base", "trained", "reference"):
        (place / "images" / f"{side}.png").write_bytes(_picture())
    refused(lambda: read_report(place), place)
    refused(lambda: read_evaluated_prompts(place), place)
    refused(lambda: read_evaluation(place), place)


@cache
def _picture() -> bytes:
    return encode_png(torch.zeros(3, 4, 4))


def own_notes(data: bytes, place: Path) -> None:
    """What we note for ourselves, after a power cut: what is damaged is done again."""
    path = place / "notes" / "part.jsonl"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    assert CheckRecord(str(path.parent)).known({}) == {}
    assert all(isinstance(value, str) for entry in _entries(data).items() for value in entry)
    read_elapsed(str(path))
    read_failure(path)
