"""Fuzzed text documents. Each is parsed as in a run, and valid ones must survive a round trip."""

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from advgrpo.cluster.settings import CLUSTER, parse_cluster_settings
from advgrpo.config import RunConfig, resolve
from advgrpo.config.parsing import parse
from advgrpo.config.tasks import parse_json
from advgrpo.data.prompt_tables import read_prompt_table
from advgrpo.data.prompts import read_prompts
from advgrpo.evaluation.saved_evaluation import EVALUATION_FILE, read_evaluation
from advgrpo.models.scorers.external_judge import ExternalJudge, parse_metadata
from advgrpo.reference_images.check_record import CheckRecord
from advgrpo.reference_images.journal import _parse_entries
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
from studies.fuzz.contract import rejects

NOW = datetime(2026, 1, 1, tzinfo=UTC)
_HEARTBEATS = (RUN_FILE, "train/rank.json", "train/launcher.json")


def manifest(data: bytes, place: Path) -> None:
    """A manifest; no file name may lead out of the folder."""
    (place / MANIFEST_FILE).write_bytes(data)
    if not rejects(lambda: read_manifest(place), place):
        found = read_manifest(place)
        for names in found.values():
            for name in names:
                assert (place / name).resolve().is_relative_to(place.resolve())
        write_manifest(place, found)
        assert read_manifest(place) == found


def provenance(data: bytes, place: Path) -> None:
    """A provenance."""
    (place / PROVENANCE_FILE).write_bytes(data)
    if not rejects(lambda: read_provenance(place), place):
        found = read_provenance(place)
        assert found is not None
        (place / PROVENANCE_FILE).write_bytes(found.model_dump_json().encode())
        assert read_provenance(place) == found


def commit(data: bytes, place: Path) -> None:
    """A list of a folder's hashes."""
    (place / COMMIT_FILE).write_bytes(data)
    rejects(lambda: read_commit(str(place)), place)


def settings(values: Mapping[Any, Any]) -> None:
    """Settings of a run, as plain values."""
    if not rejects(lambda: parse(RunConfig, values, where="here"), "here"):
        read = parse(RunConfig, values, where="here")
        assert parse(RunConfig, json.loads(read.model_dump_json()), where="there") == read


def settings_as_json(data: bytes) -> None:
    """Settings of a task, as JSON."""
    text = data.decode(errors="replace")
    if not rejects(lambda: parse_json(RunConfig, text, where="here"), "here"):
        settings(json.loads(text))


def preset(data: bytes) -> None:
    """A preset; its first line is a comment, so that the text is not taken for a preset's name."""
    text = "# fuzzed\n" + data.decode(errors="replace")
    rejects(lambda: resolve(text), "fuzzed")
    rejects(lambda: resolve(text, needed=()), "fuzzed")


def override(text: str, preset: str = "pocket") -> None:
    """A `--set` option of the command line."""
    rejects(lambda: resolve(preset, [text], needed=()))


def cluster(data: bytes) -> None:
    """Cluster settings of the chart."""
    rejects(lambda: parse_cluster_settings(data.decode(errors="replace")), CLUSTER)


def prompts(data: bytes, place: Path) -> None:
    """A prompt file."""
    path = place / "prompts.txt"
    path.write_bytes(data)
    if not rejects(lambda: read_prompts(path), path):
        found = read_prompts(path)
        path.write_text("\n".join(found.texts), encoding="utf-8", newline="")
        assert read_prompts(path) == found


def table(data: bytes, kind: str, place: Path) -> None:
    """A prompt table: `csv`, `tsv` or `jsonl`."""
    path = place / f"table.{kind}"
    path.write_bytes(data)
    rejects(lambda: read_prompt_table(str(path), "Prompt"), path)


def inner_names(names: Sequence[str], place: Path) -> None:
    """File names, which must stay inside a folder."""
    if not rejects(lambda: join(str(place), *names), place):
        inside = Path(os.path.normpath(join(str(place), *names)))
        assert inside.is_relative_to(place)


def metadata(data: bytes) -> None:
    """Prompt metadata for an external judge."""
    text = data.decode(errors="replace")
    rejects(lambda: parse_metadata(text, where="facts.jsonl"), "facts.jsonl")


def verdict(data: bytes) -> None:
    """Output of an external judge."""
    judge = ExternalJudge([], verdicts=["correct"], metadata=None, timeout_seconds=1.0)
    text = data.decode(errors="replace")
    rejects(lambda: judge._verdicts(text, "0.png", "a cat"), "judge", "a cat")


def log(data: bytes) -> None:
    """Log of a pod."""
    text = data.decode(errors="replace")
    assert isinstance(lines_to_text(text), str)
    for line in text.split("\n"):
        assert isinstance(fields_of(line), dict)


def heartbeats(data: bytes, place: Path) -> None:
    """Heartbeat files of a run by name, or its `run.json` alone."""
    files = {RUN_FILE: data}
    with suppress(ValueError, RecursionError):
        found = json.loads(data)
        if isinstance(found, dict) and found.keys() & set(_HEARTBEATS):
            files = {name: json.dumps(content).encode() for name, content in found.items()}
    for name in _HEARTBEATS:
        path = place / RUNS / "run" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(files.get(name, b""))

    def read_status() -> None:
        for line in status_lines(run_status(str(place), tracking_uri="", now=NOW)):
            assert isinstance(line, str)

    rejects(read_status, place)


def evaluation(data: bytes, place: Path) -> None:
    """A stored evaluation."""
    (place / EVALUATION_FILE).write_bytes(data)
    rejects(lambda: read_evaluation(place).evaluated_prompts(), place)


def own_records(data: bytes, place: Path) -> None:
    """Records of advgrpo itself, damaged by a power failure: damaged entries are ignored."""
    path = place / "notes" / "part.jsonl"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    assert CheckRecord(str(path.parent)).known({}) == {}
    assert all(isinstance(value, str) for entry in _parse_entries(data).items() for value in entry)
    read_elapsed(str(path))
    read_failure(path)
