"""Post-train the policy in as many processes as there are GPUs."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory

from advgrpo.config.tasks import TrainingSettings, digest, parse_json
from advgrpo.data.reference_images import content_digest
from advgrpo.discriminator.saved import WEIGHTS_FILE
from advgrpo.storage import file_sha256, join, local_folder
from advgrpo.tasks.inputs import read_run_prompts
from advgrpo.tasks.packed import unpacked
from advgrpo.tasks.ranks import run_ranks
from advgrpo.tasks.results import (
    LINEAGE_FILE,
    TaskResult,
    finished_result,
    result_folder,
    write_metrics,
)
from advgrpo.tasks.running import failing_with


def train(
    settings: str,
    *,
    reference_images: str,
    discriminator: str,
    workspace: str,
    processes: int,
    parent_run_id: str = "",
) -> TaskResult:
    """Train, going on from the last checkpoint of a run with the same settings and inputs.

    Args:
        settings: `TrainingSettings` as JSON text.
        reference_images: Location of reference images of the training prompts.
        discriminator: Location of the pre-trained discriminator.
        workspace: Local path or `s3://` location under which checkpoints and results are kept.
        processes: Training processes; on GPUs, one each.
        parent_run_id: MLflow run to nest in; empty for a run of its own.

    Returns:
        A folder that holds `adapter/`, `discriminator/`, `history.jsonl`, `totals.json` and
        `lineage.json` (hashes of what it was trained on).

    Raises:
        Preempted: If training was asked to stop; its state is saved.
        AdvGrpoError: If an input cannot be used or training cannot go on.
    """
    with failing_with("train", parent_run_id):
        task = parse_json(TrainingSettings, settings, where="the settings")
        prompts = read_run_prompts(task.prompts)
        key = digest(task, prompts.train.digest, reference_images, discriminator)
        location = join(workspace, "training", key)
        if (done := finished_result(join(location, "result"))) is not None:
            return done
        images, pretrained = unpacked(reference_images), local_folder(discriminator)
        with result_folder(join(location, "result")) as folder, TemporaryDirectory() as scratch:
            settings_file = Path(scratch) / "settings.json"
            settings_file.write_text(settings, encoding="utf-8")
            run_ranks(
                "advgrpo.tasks.train_rank",
                [
                    *("--settings", str(settings_file)),
                    *("--reference-images", str(images)),
                    *("--discriminator", str(pretrained)),
                    *("--output", str(folder)),
                    *("--checkpoints", join(location, "checkpoints")),
                    *("--parent-run-id", parent_run_id),
                ],
                processes=processes,
                logs=Path(scratch) / "logs",
            )
            metrics = _metrics(folder / "totals.json")
            write_metrics(folder, metrics)
            lineage = {
                "prompts.train": prompts.train.digest,
                "prompts.test": prompts.test.digest,
                "reference_images": content_digest(images),
                "discriminator": file_sha256(pretrained / WEIGHTS_FILE),
                "training_settings": key,
            }
            (folder / LINEAGE_FILE).write_text(json.dumps(lineage, indent=1), encoding="utf-8")
        return TaskResult(join(location, "result"), metrics)


def _metrics(totals_file: Path) -> dict[str, float]:
    totals = json.loads(totals_file.read_text(encoding="utf-8"))
    seconds = {f"seconds/{part}": value for part, value in totals["seconds"].items()}
    counts = {name: float(totals[name]) for name in ("images_sampled", "policy_updates")}
    memory = {"cost/peak_memory_mib": totals["peak_memory_mib"]}
    return {**totals["handed_on"], **counts, **seconds, **memory}
