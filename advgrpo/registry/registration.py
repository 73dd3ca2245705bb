"""Registration of a trained adapter as a version of a registered model."""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import LoggedModel, LoggedModelOutput, Metric
from mlflow.exceptions import MlflowException

from advgrpo import __version__
from advgrpo.config.run import RunConfig
from advgrpo.errors import WeightsError
from advgrpo.records import LIBRARIES
from advgrpo.registry.card import describe_alarms, model_card, short_card
from advgrpo.registry.evidence import EVIDENCE_FILE, SAMPLE_FOLDER, SETTINGS_FILE, Evidence
from advgrpo.registry.served_files import write_served_files
from advgrpo.registry.versions import (
    ADAPTER_FILES,
    ADAPTER_FOLDER,
    ADAPTER_TAG,
    FILES_LIST,
    FILES_TAG,
    MODEL_TAG,
    POLICY_TAG,
    TAG_PREFIX,
    RegisteredAdapter,
    with_absolute_paths,
)
from advgrpo.storage.local import disk_errors, file_sha256
from advgrpo.storage.locations import join
from advgrpo.tracking.artifacts import artifact_errors, check_location
from advgrpo.tracking.connection import FAULTS, connect, describe_error

CARD_FILE = "README.md"
GATES_TAG = "advgrpo.gates"
"""Tag: `passed`, `failed` or `none`, for people and searches; decisions use `evidence.json`."""

_EVIDENCE_TAG = "advgrpo.evidence"
_WATCH_TAG = "advgrpo.watch"
_GATE_TAG = "advgrpo.gate.{}"
_EXISTS = "RESOURCE_ALREADY_EXISTS"


def register_adapter(
    adapter_folder: Path,
    *,
    settings: RunConfig,
    evidence: Evidence,
    pictures: Path | None = None,
    run_id: str,
    tracking_uri: str,
    metrics: Mapping[str, float],
) -> RegisteredAdapter:
    """Register an adapter as a new version of a registered model.

    The version can be served with `mlflow.pyfunc`; base weights are referenced, not copied. Its
    files include a model card, the run's settings and the evidence. If all gates passed, the alias
    `promotion.alias` moves to it as the last step; otherwise it is registered without an alias.
    Idempotent: the same adapter with the same evidence has only one version.

    Args:
        adapter_folder: Folder with `ADAPTER_FILES`.
        settings: Settings of the run, which name the registered model.
        evidence: Evaluation of the adapter, and the results of its gates.
        pictures: Folder with the images of the evidence's sample, if it has one.
        run_id: MLflow run of the adapter.
        tracking_uri: The MLflow server.
        metrics: Metrics of the logged model, by name.

    Raises:
        WeightsError: If a file of the adapter is missing.
        TrackingError: If MLflow is not available or refuses.
    """
    # Later readers have another working directory.
    settings = settings.model_copy(update={"policy": with_absolute_paths(settings.policy)})
    text = evidence.model_dump_json(indent=1)
    identity_tags = {
        **{ADAPTER_TAG.format(file): digest for file, digest in _digests(adapter_folder).items()},
        # The same adapter with another evaluation is another version.
        _EVIDENCE_TAG: hashlib.sha256(text.encode()).hexdigest(),
    }
    name = settings.promotion.registered_model
    try:
        client = connect(tracking_uri)
        version = _find_existing_version(client, name, run_id, identity_tags)
        if version is None:
            tags = _tags(settings, evidence) | identity_tags
            with tempfile.TemporaryDirectory() as folder:
                files = Path(folder)
                _write_files(files, adapter_folder, settings, evidence, pictures)
                model_id = _log_model(
                    client, files, settings, evidence, run_id, identity_tags, tags, metrics
                )
            text = short_card(settings, evidence)
            version = _create_version(client, name, run_id, model_id, tags, text)
        # Last, so that an interrupted registration never leaves an alias on an incomplete version.
        # Also for an existing version: the first attempt may have failed before this step.
        if _gate_outcome(evidence) == "passed":
            client.set_registered_model_alias(name, settings.promotion.alias, str(version))
    except FAULTS as error:
        raise describe_error(error, f"register the adapter as {name}", tracking_uri) from error
    return RegisteredAdapter(name, version, f"models:/{name}/{version}")


def _gate_outcome(evidence: Evidence) -> str:
    if not evidence.results:
        return "none"
    return "passed" if all(result.passed for result in evidence.results) else "failed"


def _tags(settings: RunConfig, evidence: Evidence) -> dict[str, str]:
    return {
        POLICY_TAG: settings.policy.model_dump_json(),
        # For people and searches only: `check_promotion` evaluates the gates again.
        GATES_TAG: _gate_outcome(evidence),
        _WATCH_TAG: describe_alarms(evidence.training),
        **{
            _GATE_TAG.format(number): f"{'passed' if result.passed else 'FAILED'}: {result.gate} "
            f"({result.reason})"
            for number, result in enumerate(evidence.results, start=1)
        },
        f"{TAG_PREFIX}version": __version__,
        **{TAG_PREFIX + name: value for name, value in evidence.lineage.items()},
    }


def _write_files(
    folder: Path,
    adapter_folder: Path,
    settings: RunConfig,
    evidence: Evidence,
    pictures: Path | None,
) -> None:
    with disk_errors("copy", adapter_folder):
        (folder / ADAPTER_FOLDER).mkdir(parents=True)
        for file in ADAPTER_FILES:
            shutil.copyfile(adapter_folder / file, folder / ADAPTER_FOLDER / file)
        for name in {name for prompt in evidence.sample for name in prompt.images}:
            # A sample without its images could not be replayed.
            assert pictures is not None
            target = Path(join(str(folder / SAMPLE_FOLDER), name))
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(pictures / name, target)
    (folder / EVIDENCE_FILE).write_text(evidence.model_dump_json(indent=1), encoding="utf-8")
    (folder / SETTINGS_FILE).write_text(settings.model_dump_json(indent=1), encoding="utf-8")
    (folder / CARD_FILE).write_text(model_card(settings, evidence), encoding="utf-8")


def _log_model(
    client: MlflowClient,
    files: Path,
    settings: RunConfig,
    evidence: Evidence,
    run_id: str,
    identity_tags: Mapping[str, str],
    tags: dict[str, str],
    metrics: Mapping[str, float],
) -> str:
    """Log the adapter as a logged model, or resume one with the same identity."""
    run = client.get_run(run_id)
    experiment = run.info.experiment_id
    logged = _find_logged_model(
        client, experiment, run_id, identity_tags
    ) or client.create_logged_model(
        experiment,
        name=settings.promotion.registered_model,
        source_run_id=run_id,
        tags=dict(tags),
        model_type="adapter",
    )
    model_id = str(logged.model_id)
    # The versions of the training, not those of this task, whose image may have other libraries.
    prefix = "version."
    try:
        write_served_files(
            files,
            policy=settings.policy,
            sampling=settings.evaluation_sampling,
            versions={
                name: evidence.lineage[prefix + name]
                for name in LIBRARIES
                if prefix + name in evidence.lineage
            },
            run_id=run_id,
            model_id=model_id,
        )
        # The hash is a tag of the version, so the list cannot be changed together with the files
        # alone.
        tags[FILES_TAG] = _list_files(files)
        location = str(logged.artifact_location)
        check_location(location, client.tracking_uri)
        with artifact_errors("write the adapter", location, client.tracking_uri):
            client.log_model_artifacts(model_id, str(files))
        outputs = run.outputs.model_outputs if run.outputs is not None else []
        # A resumed registration may have linked the model to the run already.
        if model_id not in {output.model_id for output in outputs}:
            client.log_outputs(run_id, [LoggedModelOutput(model_id, step=0)])
        # Not the present time: MLflow drops a metric that is logged again with equal values.
        when = logged.creation_timestamp
        client.log_batch(
            run_id,
            metrics=[
                Metric(metric, value, when, 0, model_id=model_id, run_id=run_id)
                for metric, value in metrics.items()
            ],
        )
    # Also for a preempted task: MLflow lists models that are never finalized as pending.
    except BaseException:
        client.finalize_logged_model(model_id, "FAILED")
        raise
    client.finalize_logged_model(model_id, "READY")
    return model_id


def _find_logged_model(
    client: MlflowClient, experiment: str, run_id: str, identity_tags: Mapping[str, str]
) -> LoggedModel | None:
    for model in client.search_logged_models([experiment], f"source_run_id = '{run_id}'"):
        # Only a model of the same adapter and evidence may be resumed, not any model of the run.
        if identity_tags.items() <= model.tags.items():
            return model
    return None


def _list_files(folder: Path) -> str:
    digests = {
        path.relative_to(folder).as_posix(): file_sha256(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    text = json.dumps(digests, indent=1)
    (folder / FILES_LIST).write_text(text, encoding="utf-8")
    return hashlib.sha256(text.encode()).hexdigest()


def _create_version(
    client: MlflowClient,
    name: str,
    run_id: str,
    model_id: str,
    tags: Mapping[str, str],
    description: str,
) -> int:
    try:
        client.create_registered_model(name, tags={MODEL_TAG: "adapter"})
    except MlflowException as error:
        # Concurrent runs may create the same registered model.
        if error.error_code != _EXISTS:
            raise
        client.set_registered_model_tag(name, MODEL_TAG, "adapter")
    version = client.create_model_version(
        name,
        f"models:/{model_id}",
        run_id=run_id,
        tags=dict(tags),
        description=description,
        model_id=model_id,
        # MLflow would poll for a status that its own stores set at once.
        await_creation_for=0,
    )
    return int(version.version)


def _find_existing_version(
    client: MlflowClient, name: str, run_id: str, identity_tags: Mapping[str, str]
) -> int | None:
    for version in client.search_model_versions(f"name = '{name}' and run_id = '{run_id}'"):
        if identity_tags.items() <= version.tags.items():
            return int(version.version)
    return None


def _digests(folder: Path) -> dict[str, str]:
    missing = [file for file in ADAPTER_FILES if not (folder / file).is_file()]
    if missing:
        raise WeightsError(
            f"the adapter in {folder} has no {', '.join(missing)}",
            repair="use the folder `adapter` of a training's result",
        )
    with disk_errors("read", folder):
        return {file: file_sha256(folder / file) for file in ADAPTER_FILES}
