"""Results of a job as names and values that can be compared bit for bit.

Times, memory and MLflow's random identifiers are left out; the patterns below list them.
"""

import hashlib
import io
import json
import re
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts
from mlflow.entities import Run

from advgrpo.storage import COMMIT_FILE, list_files, read_bytes
from advgrpo.training.checkpoint import UNSENT
from studies.crash.job import WORKSPACE

TIMES = re.compile(
    r"""
    (^|/)seconds(/|$) | ^cost/seconds | ^cost/images_per_second | ^performance/  # duration
    | peak_memory                                               # memory
    | ^cost/slowest_rank                                        # differences between ranks
    """,
    re.VERBOSE,
)
"""Names of metrics, and of keys in JSON files, that differ from run to run."""

TIMES_IN_TEXT = re.compile(
    r"""
    .*(data-name="(Time|Hours|Memory)"|class="bars"|<dt>Time</dt>|PU-hours\ per).*  # costs
    | (?s:<h3>(Share\ of\ the\ matmul\ rate|Images\ per\ second)</h3>.*?</svg>)  # its speed
    | \d{4}-\d\d-\d\d\ \d\d:\d\d\ UTC | ^utc_time_created:.*     # date
    """,
    re.VERBOSE | re.MULTILINE,
)
"""Likewise, in the report and in MLflow's description of the model."""

HASHES_OF_TIMES = {"MLmodel", "registered_model_meta", "advgrpo.files"}
"""Hashes of content that is left out: entries in a version's list of files, and its tag."""

OF_ATTEMPTS = {"advgrpo.run"}
"""Tags that contain a run's key."""

RANDOM_IDS = {
    "run": re.compile(r"\b[0-9a-f]{32}\b"),
    "model": re.compile(r"\bm-[0-9a-f]{32}\b"),
}
"""Random identifiers of MLflow."""

Outcome = dict[str, str]


def gather(client: MlflowClient, key: str, outputs: Path) -> Outcome:
    """Return the results of a finished job: in the store, in MLflow and in its outputs.

    Args:
        client: Client of MLflow.
        key: Key of the job's run.
        outputs: File with the pipeline's outputs.
    """
    found = {f"outputs/{k}": v for k, v in json.loads(outputs.read_text("utf-8")).items()}
    run_id = found.pop("outputs/parent_run_id")
    version = found.pop("outputs/model_version").rpartition("/")[2]
    found |= {f"store/{name}": value for name, value in _store()}
    experiment = client.get_run(run_id).info.experiment_id
    runs = client.search_runs([experiment], f"tags.`advgrpo.run` = '{key}'")
    found["mlflow/runs with the key"] = str(len(runs))
    children = client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{run_id}'")
    names = sorted(run.info.run_name for run in children)
    found["mlflow/nested runs"] = ", ".join(names)
    for run in (*runs, *children):
        name = "parent" if run.info.run_id == run_id else run.info.run_name
        found |= {f"mlflow/{name}/{item}": value for item, value in _run(client, run)}
    found |= {f"version/{item}": value for item, value in _version(client, version)}
    versions = client.search_model_versions(f"run_id = '{run_id}'")
    found["mlflow/versions"] = str(len(versions))
    models = client.search_logged_models([experiment], f"source_run_id = '{run_id}'")
    found["mlflow/logged models"] = str(len(models))
    return {name: value.replace(key, "<key>") for name, value in found.items()}


def differences(expected: Outcome, found: Outcome) -> list[str]:
    """Return the differences, sorted by name."""
    lines = []
    for name in sorted(expected.keys() | found.keys()):
        before, now = expected.get(name, "(absent)"), found.get(name, "(absent)")
        if before != now:
            lines.append(f"{name}: {_short(before)} became {_short(now)}")
    return lines


def _short(text: str) -> str:
    return text if len(text) < 200 else f"{text[:200]}..."


def _store() -> Iterator[tuple[str, str]]:
    images: dict[str, dict[str, str]] = {}
    for name in list_files(WORKSPACE):
        folder, _, file = name.rpartition("/")
        # Left out: indexes of files that are compared anyway, heartbeats, and the records that were
        # unsent when a checkpoint was written, which depends on timing.
        if (
            file in {COMMIT_FILE, f"{UNSENT}.safetensors"}
            or _lists(file)
            or name.startswith("runs/")
        ):
            continue
        data = read_bytes(f"{WORKSPACE}/{name}")
        if file.startswith("part-"):
            # Which archive holds an image depends on which rank was faster.
            images.setdefault(folder, {}).update(_archive(data))
        else:
            yield name, _digest(file, data)
    for folder, files in images.items():
        yield from ((f"{folder}/{name}", value) for name, value in sorted(files.items()))


def _lists(file: str) -> bool:
    return file.startswith("part-") and file.endswith(".json")


def _archive(data: bytes) -> Iterator[tuple[str, str]]:
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        for entry in archive:
            content = archive.extractfile(entry)
            assert content is not None
            yield entry.name, _digest(entry.name, content.read())


def _run(client: MlflowClient, run: Run) -> Iterator[tuple[str, str]]:
    run_id = run.info.run_id
    yield "status", run.info.status
    for name, value in run.data.params.items():
        yield f"parameter {name}", value
    for name, value in run.data.tags.items():
        if not name.startswith("mlflow.") and name not in OF_ATTEMPTS:
            yield f"tag {name}", re.sub(r"/\d+$", "/<version>", value)
    for name in run.data.metrics:
        if name.startswith("system/"):  # load of the machine
            continue
        history = client.get_metric_history(run_id, name)
        values = [(point.step, "" if TIMES.search(name) else point.value) for point in history]
        yield f"metric {name}", json.dumps(sorted(values))
    with TemporaryDirectory() as folder:
        yield from _files(Path(client.download_artifacts(run_id, "", folder)), "artifact")


def _version(client: MlflowClient, version: str) -> Iterator[tuple[str, str]]:
    name = "advgrpo-pocket"
    found = client.get_model_version(name, version)
    for tag, value in found.tags.items():
        if tag not in HASHES_OF_TIMES:
            yield f"tag {tag}", _without_random_ids(value)
    yield "alias", str(found.aliases)
    with TemporaryDirectory() as folder:
        uri = f"models:/{name}/{version}"
        yield from _files(Path(download_artifacts(artifact_uri=uri, dst_path=folder)), "file")


def _files(folder: Path, kind: str) -> Iterator[tuple[str, str]]:
    for path in sorted(folder.rglob("*")):
        # registered_model_meta holds the number of the version.
        if path.is_file() and path.name != "registered_model_meta":
            # MLflow puts the time into the names of images.
            name = re.sub(r"\+timestamp\+.*?(\+compressed)?(\.\w+)$", r"\1\2", path.name)
            where = path.relative_to(folder).with_name(name).as_posix()
            yield f"{kind} {where}", _digest(name, path.read_bytes())


def _digest(name: str, data: bytes) -> str:
    """Return the hash of a content without its times."""
    if name.endswith((".json", ".jsonl")):
        lines = data.splitlines() if name.endswith(".jsonl") else [data]
        # A damaged file is hashed as it is, and differs.
        with suppress(ValueError):
            rows = [_timeless(json.loads(line)) for line in lines]
            data = json.dumps(rows, sort_keys=True).encode()
    elif name.endswith((".html", ".md", ".yaml", "MLmodel")):
        data = _without_random_ids(data.decode()).encode()
    return hashlib.sha256(data).hexdigest()[:16]


def _timeless(value: object) -> object:
    if isinstance(value, Mapping):
        left_out = {k for k in value if k in HASHES_OF_TIMES or TIMES.search(str(k))}
        return {k: _timeless(v) for k, v in value.items() if k not in left_out}
    if isinstance(value, list):
        return [_timeless(item) for item in value]
    return value


def _without_random_ids(text: str) -> str:
    text = TIMES_IN_TEXT.sub("<time>", text)
    for name, pattern in RANDOM_IDS.items():
        text = pattern.sub(f"<{name}>", text)
    return text
