"""One rank of the task train."""

import json
import logging
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NoReturn

import torch

from advgrpo.config.tasks import TrainingSettings
from advgrpo.errors import RankFailedError
from advgrpo.models.discriminators.saving import save_discriminator
from advgrpo.models.policies.adapter import save_adapter
from advgrpo.models.policies.embeddings import StoredEmbeddings
from advgrpo.models.scorers.build import build_reward_scorers, build_scorers
from advgrpo.planning.fitting import check_gpu_memory, fit, fitted_values
from advgrpo.records import PromptSet, ReferenceImageSet
from advgrpo.reference_images.shared_images import assign_for_training
from advgrpo.runtime.devices import free_gpu_memory
from advgrpo.runtime.failures import record_failure
from advgrpo.runtime.pipeline_tasks import TRAIN
from advgrpo.runtime.process_group import ProcessGroup, translate_rank_loss
from advgrpo.runtime.results import TOTALS_FILE, write_history
from advgrpo.runtime.task_context import track_task
from advgrpo.runtime.watchdog import Watchdog
from advgrpo.storage.locations import join
from advgrpo.tasks.embeddings import training_prompts
from advgrpo.tasks.metrics_stream import CopyingLogger
from advgrpo.telemetry.logging import event, log_error
from advgrpo.tracking.further_loggers import further_loggers
from advgrpo.training.build import Inputs, build_training_state
from advgrpo.training.checkpoint import Checkpoints
from advgrpo.training.held_out import Logger
from advgrpo.training.loop import train
from advgrpo.training.reward_hacking import alarms, stopped_early, tag_alarms
from advgrpo.training.state import TrainingState

logger = logging.getLogger("advgrpo")


class NullLogger:
    """Logger of all ranks but the first, which records nothing."""

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Do nothing."""

    def picture(self, name: str, step: int, png: bytes) -> None:
        """Do nothing."""

    def tags(self, values: Mapping[str, str]) -> None:
        """Do nothing."""

    def unsent_pictures(self) -> list[tuple[str, int, bytes]]:
        """Return no picture."""
        return []


@dataclass(frozen=True)
class Locations:
    """Locations that the ranks of a training read and write."""

    discriminator: Path
    """Folder of the pre-trained discriminator."""

    output: Path
    """Folder that the first rank writes the results to."""

    run_digest: str
    """Identity of the training and of the content of its inputs, which its checkpoints carry."""

    key: str
    """Cache key of the training."""

    checkpoints: str
    features: str
    embeddings: str
    tensorboard: str

    metrics: Path | None = None
    """File that the first rank appends metrics to, as JSON lines; None if nothing reads them."""


def train_rank(
    settings: TrainingSettings,
    prompts: PromptSet,
    reference_images: ReferenceImageSet,
    locations: Locations,
    parent_run_id: str,
) -> None:
    """Train as one rank of a process group; the first one writes the results.

    Args:
        settings: The task's settings.
        prompts: The training prompts.
        reference_images: Validated images of the training prompts.
        locations: Locations of inputs and results.
        parent_run_id: MLflow run to nest in; empty for a run of its own.
    """
    process_group = ProcessGroup()
    with (
        _logger(process_group, settings, locations, parent_run_id) as sink,
        TemporaryDirectory() as scratch,
        translate_rank_loss(process_group.monitor.describe),
    ):
        hangs = settings.training.hangs
        process_group.connect(timeout_seconds=hangs.timeout_seconds)
        state = _training_state(
            settings, prompts, reference_images, locations, process_group, sink, Path(scratch)
        )
        # Loading models is not watched: the limits are for microbatches.
        with Watchdog(process_group.monitor, hangs, give_up=end_hanging):
            train(state)
        if process_group.is_first:
            write_results(state, locations.output)
        process_group.barrier()


@contextmanager
def _logger(
    process_group: ProcessGroup,
    settings: TrainingSettings,
    locations: Locations,
    parent_run_id: str,
) -> Iterator[Logger]:
    if not process_group.is_first:
        yield NullLogger()
        return
    training = locations.key
    with (
        track_task(TRAIN.name, parent_run_id) as run,
        further_loggers(
            settings.tracking.also,
            folder=join(locations.tensorboard, training),
            # As in MLflow: retries of a pipeline run share a run.
            key=parent_run_id or training,
            settings=settings.model_dump(mode="json"),
        ) as others,
    ):
        yield CopyingLogger(run, locations.metrics, others)


def end_hanging(reason: str) -> NoReturn:
    """End this process with a `RankFailedError`."""
    error = RankFailedError(
        reason,
        repair="run it again to resume from the last checkpoint; if it hangs in the same place "
        "again, read the stacks in the log; if a part legitimately takes longer, raise "
        "training.hangs.timeout_seconds",
    )
    # os._exit skips all handlers, so failure and log are written here.
    record_failure(TRAIN.name, error)
    log_error(error)
    sys.stderr.flush()
    # Not sys.exit: it is called in the watchdog's thread, and the main thread is blocked in a
    # collective call that no signal handler interrupts.
    os._exit(error.exit_code)


def _fitted(
    settings: TrainingSettings, process_group: ProcessGroup, sink: Logger
) -> TrainingSettings:
    """Fit settings that are `auto` to the GPUs, record them, and check that the training fits."""
    free, processes = free_gpu_memory(), process_group.world_size
    if free is not None:
        # The fullest GPU: ranks must agree, and on a resumed run's other GPU results differ only by
        # rounding.
        free = int(process_group.all_reduce_min(free))
    fitted = fit(settings, processes, free=free)
    if free is None:
        return fitted
    card = torch.cuda.get_device_name()
    check_gpu_memory(fitted, processes=processes, free=free, card=card)
    if process_group.is_first and (values := fitted_values(settings, fitted)):
        text = ", ".join(f"{name}={value}" for name, value in values.items())
        logger.info("fitted to the memory: %s", text, extra=event("fitted", settings=text))
        sink.tags({f"fitted.{name}": value for name, value in values.items()})
    return fitted


def _training_state(
    settings: TrainingSettings,
    prompts: PromptSet,
    reference_images: ReferenceImageSet,
    locations: Locations,
    process_group: ProcessGroup,
    sink: Logger,
    scratch: Path,
) -> TrainingState:
    # Before the models are loaded, which takes minutes.
    settings = _fitted(settings, process_group, sink)
    # Must match the pre-training: both derive the split from the content of images and prompts.
    reference_images = assign_for_training(
        reference_images,
        prompts.texts,
        held_out_fraction=settings.discriminator.held_out_fraction,
    )
    checkpoints = Checkpoints(
        locations.checkpoints,
        run_digest=locations.run_digest,
        keep=settings.training.checkpoints_kept,
        scratch=scratch,
    )
    inputs = Inputs(
        seed=settings.seed,
        policy=settings.policy,
        discriminator=settings.discriminator,
        training=settings.training,
        distance=settings.distance,
        alignment=settings.alignment,
        evaluation_sampling=settings.evaluation_sampling,
        scorers=build_scorers(settings.scorers, process_group.device, reference_images),
        reward_scorers=build_reward_scorers(
            settings.training.reward, process_group.device, reference_images
        ),
        prompts=prompts,
        reference_images=reference_images,
        pretrained_discriminator=locations.discriminator,
        features=locations.features,
        embeddings=StoredEmbeddings(locations.embeddings, training_prompts(settings, prompts)),
    )
    state = build_training_state(
        inputs, process_group=process_group, checkpoints=checkpoints, logger=sink
    )
    # After loading: a signal before it ends the process at once, with nothing to save.
    state.stop.listen()
    if state.resume() and process_group.is_first:
        # The earlier attempt may have been lost before its tags reached MLflow.
        tag_alarms(state)
        counters = state.counters
        fields = {
            "update": counters.updates,
            "rollout": counters.rollouts,
            "place": locations.checkpoints,
        }
        logger.info("resuming from update %d", counters.updates, extra=event("resumed", **fields))
    return state


def write_results(state: TrainingState, output: Path) -> None:
    """Write the results of a training.

    Args:
        state: State of the finished training.
        output: Gets `adapter/`, `discriminator/`, `history.jsonl` (metrics, one update a line) and
            `totals.json` (time, memory and alarms).
    """
    output.mkdir(parents=True, exist_ok=True)
    # The best moving average, not the last weights.
    save_adapter(output / "adapter", state.best.values, state.policy.config.adapter)
    # The last one, which need not be the one that the best adapter was trained against.
    save_discriminator(output / "discriminator", state.discriminator, state.history[-1])
    write_history(output, state.history)
    counters = state.counters
    totals = {
        "images_sampled": counters.images_sampled,
        "updates": counters.updates,
        "policy_updates": counters.updates * state.config.optimizer_steps_per_update,
        "seconds": counters.seconds,
        "peak_memory_mib": state.history[-1]["cost/peak_memory_mib"],
        "selected": state.best.metrics,
        "stopped_early": stopped_early(state),
        "alarms": [{"update": alarm.update, "reason": alarm.reason} for alarm in alarms(state)],
    }
    (output / TOTALS_FILE).write_text(json.dumps(totals, indent=1), encoding="utf-8")
