"""The task train: adversarial post-training in one process per GPU."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from advgrpo.config.tasks import TrainingSettings, parse_json
from advgrpo.data.drawn_prompts import drawn_prompts
from advgrpo.data.prompts import read_run_prompts
from advgrpo.models.policies.compilation import check_compiler
from advgrpo.models.policies.saved_adapter import adapter_folder
from advgrpo.planning.fitting import check_host_memory, free_host_memory
from advgrpo.records import DISCRIMINATOR_WEIGHTS, PromptSet, ReferenceImageSet
from advgrpo.reference_images.image_set import digest_of
from advgrpo.reference_images.opening import open_reference_images
from advgrpo.runtime.nodes import nodes
from advgrpo.runtime.pipeline_tasks import TRAIN
from advgrpo.runtime.processes import run_in_processes
from advgrpo.runtime.results import (
    LINEAGE_FILE,
    TOTALS_FILE,
    TaskResult,
    find_result,
    library_versions,
    result_folder,
    write_metrics,
)
from advgrpo.runtime.task_context import report_failure
from advgrpo.storage.fetch import local_folder
from advgrpo.storage.local import file_sha256
from advgrpo.storage.locations import join
from advgrpo.tasks.embeddings import encode_for_task, training_prompts
from advgrpo.tasks.finished import checkpoints_location, record_training, training_location
from advgrpo.tasks.metrics_stream import OnMetrics, streamed_metrics
from advgrpo.tasks.train_worker import Locations, train_rank
from advgrpo.tracking.further_loggers import check_further_loggers
from advgrpo.training.reference_features import FEATURES


def train(
    settings: str,
    *,
    reference_images: str,
    discriminator: str,
    workspace: str,
    processes: int,
    parent_run_id: str = "",
    on_metrics: OnMetrics | None = None,
) -> TaskResult:
    """Train, resuming from the last checkpoint of a run with equal settings and inputs.

    Args:
        settings: `TrainingSettings` as JSON text.
        reference_images: Location of reference images of the training prompts.
        discriminator: Location of the pre-trained discriminator.
        workspace: Local path or `s3://` location for checkpoints and results.
        processes: Training processes on all machines of the job; with GPUs, one each.
        parent_run_id: MLflow run to nest in; empty for a run of its own.
        on_metrics: Called in a thread with update and metrics while training runs; not if the
            result exists already.

    Returns:
        A folder with `adapter/`, `discriminator/`, `history.jsonl`, `totals.json` and
        `lineage.json` (hashes of the inputs). The first machine of a job writes it; on the others,
        the result has no metrics.

    Raises:
        Preempted: If training was preempted; its state is saved.
        AdvGrpoError: If an input cannot be used or training fails.
    """
    # Not track_task: the first rank records the task in MLflow, while it trains.
    with report_failure(TRAIN.name, parent_run_id, workspace):
        task = parse_json(TrainingSettings, settings, where="the settings")
        check_further_loggers(task.tracking.also)
        prompts = read_run_prompts(task.prompts)
        if (initial := task.policy.adapter.initial_adapter) is not None:
            # Fails at once if the adapter does not exist.
            adapter_folder(initial)
        location = training_location(
            task,
            prompts,
            reference_images=reference_images,
            discriminator=discriminator,
            workspace=workspace,
        )
        key, output = location.rpartition("/")[2], join(location, "result")
        # Before images are opened and prompts are encoded, which take minutes for large sets.
        if (done := find_result(output)) is not None:
            if nodes().is_first:
                record_training(done, parent_run_id)
            return done
        # Validated once per machine, not by every rank.
        images = open_reference_images(
            reference_images,
            prompts,
            "train",
            images_per_prompt=task.images_per_prompt,
            resolution_pixels=task.policy.resolution_pixels,
            seed=task.seed,
            workspace=workspace,
            draws=task.draws,
        )
        check_compiler(task.training.compile, on_gpu=torch.cuda.is_available())
        # In this process: a rank that runs out of memory is killed without a message.
        check_host_memory(
            task,
            processes=processes,
            here=nodes().processes_here(processes),
            on_gpu=torch.cuda.is_available(),
            free=free_host_memory(),
        )
        pretrained = local_folder(discriminator)
        discriminator_sha256 = file_sha256(pretrained / DISCRIMINATOR_WEIGHTS)
        # The key knows inputs by location; a checkpoint is only resumed with equal content, too.
        images_digest = _digest_of_certain(images, task, prompts.train)
        run_digest = f"{key}-{images_digest}-{discriminator_sha256}"
        embeddings = encode_for_task(
            task.policy,
            task.training.sampling,
            training_prompts(task, prompts.train),
            workspace=workspace,
        )
        # Encoding has freed the text encoders by now, so the ranks have the memory to themselves.
        with (
            _output(output) as folder,
            streamed_metrics(on_metrics) as metrics_file,
        ):
            places = Locations(
                discriminator=pretrained,
                output=folder,
                run_digest=run_digest,
                checkpoints=checkpoints_location(output),
                features=join(workspace, FEATURES),
                embeddings=embeddings,
                tensorboard=join(workspace, "tensorboard"),
                key=key,
                metrics=metrics_file,
            )
            arguments = {
                # Plain data only: the ranks are new interpreters, not forks of this process.
                "settings": task,
                "prompts": prompts.train,
                "reference_images": images,
                "locations": places,
                "parent_run_id": parent_run_id,
            }
            run_in_processes(train_rank, arguments, task=TRAIN.name, processes=processes)
            # The totals are written by the first rank, which is on the first machine.
            if not nodes().is_first:
                return TaskResult(output, {})
            metrics = _metrics(folder / TOTALS_FILE) | {
                "cost/processes": float(processes),
                "cost/on_gpu": float(torch.cuda.is_available()),
            }
            write_metrics(folder, metrics)
            lineage = {
                "prompts.train": prompts.train.digest,
                "prompts.test": prompts.test.digest,
                "reference_images": images_digest,
                "discriminator": discriminator_sha256,
                "training_settings": key,
                **library_versions(),
            }
            (folder / LINEAGE_FILE).write_text(json.dumps(lineage, indent=1), encoding="utf-8")
        return TaskResult(output, metrics)


def _digest_of_certain(
    images: ReferenceImageSet, task: TrainingSettings, prompts: PromptSet
) -> str:
    """Return the digest of the images that the run needs if it skips no rollout.

    Whether it may skip some is not part of the key, so it must not change this digest either.
    """
    if task.images_per_prompt is None:
        return images.digest
    certain = drawn_prompts(prompts, task.certain_draws).texts
    return digest_of({prompt: images.files[prompt] for prompt in certain}, images.sha256)


@contextmanager
def _output(location: str) -> Iterator[Path]:
    """Yield the folder of the result; on machines other than the first, a temporary one."""
    if nodes().is_first:
        with result_folder(location) as folder:
            yield folder
    else:
        with TemporaryDirectory() as unused:
            yield Path(unused)


def _metrics(totals_file: Path) -> dict[str, float]:
    totals = json.loads(totals_file.read_text(encoding="utf-8"))
    seconds = {f"seconds/{part}": value for part, value in totals["seconds"].items()}
    counts = {name: float(totals[name]) for name in ("images_sampled", "policy_updates")}
    memory = {"cost/peak_memory_mib": totals["peak_memory_mib"]}
    watched = {
        "watch/alarms": float(len(totals["alarms"])),
        "watch/stopped_early": float(totals["stopped_early"]),
    }
    return {**totals["selected"], **counts, **seconds, **memory, **watched}
