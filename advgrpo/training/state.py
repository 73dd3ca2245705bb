"""The state of a training run: its parts, and what a checkpoint holds of them."""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from advgrpo.config.training import TrainingConfig
from advgrpo.errors import CheckpointError
from advgrpo.models.discriminators.base import Discriminator
from advgrpo.models.discriminators.replay import ReplayPool
from advgrpo.models.policies.base import Policy
from advgrpo.models.policies.ema import MovingAverage
from advgrpo.models.policies.speed import PolicySpeed
from advgrpo.records import PromptSet
from advgrpo.runtime.process_group import ProcessGroup
from advgrpo.telemetry.logging import machine_event
from advgrpo.training.algorithms.base import Algorithm
from advgrpo.training.best import BestAdapter
from advgrpo.training.checkpoint import UNSENT, Checkpoint, Checkpoints
from advgrpo.training.counters import Counters
from advgrpo.training.discriminator_update import DiscriminatorUpdater
from advgrpo.training.engines.base import PolicyEngine
from advgrpo.training.held_out import Logger, Monitor
from advgrpo.training.nonfinite import NonFiniteGuard
from advgrpo.training.past_rollouts import PastRollouts
from advgrpo.training.policy_update import PolicyUpdater
from advgrpo.training.reference_features import ReferenceFeatures
from advgrpo.training.reward import ReferenceRewards, Reward
from advgrpo.training.stopping import StopSignal
from advgrpo.training.stragglers import Stragglers

logger = logging.getLogger("advgrpo")

_NO_ROLLOUT = -1


@dataclass(frozen=True)
class TrainingState:
    """All parts of a run that is ready to train."""

    config: TrainingConfig
    seed: int
    prompts: PromptSet
    process_group: ProcessGroup
    policy: Policy
    speed: PolicySpeed
    engine: PolicyEngine
    algorithm: Algorithm
    average: MovingAverage
    policy_updater: PolicyUpdater
    discriminator: Discriminator
    discriminator_updater: DiscriminatorUpdater
    replay: ReplayPool
    past: PastRollouts
    references: ReferenceFeatures
    reward: Reward
    reference_rewards: ReferenceRewards
    guard: NonFiniteGuard
    stragglers: Stragglers
    monitor: Monitor
    best: BestAdapter
    counters: Counters
    history: list[dict[str, float]]
    checkpoints: Checkpoints
    stop: StopSignal
    logger: Logger

    def texts(self, prompt_ids: Sequence[int]) -> list[str]:
        """Return the texts of training prompts."""
        return [self.prompts.texts[index] for index in prompt_ids]

    def log_metrics(self, metrics: Mapping[str, float]) -> None:
        """Add metrics of the present update to the history, and log them."""
        row = {"update": float(self.counters.updates), **metrics}
        # Held-out metrics of an update are logged after its training metrics, and share its row.
        if self.history and self.history[-1]["update"] == row["update"]:
            self.history[-1] |= row
        else:
            self.history.append(row)
        self.logger.metrics(metrics, self.counters.updates)

    def save(self) -> None:
        """Write a checkpoint, unless it exists already; every rank must call it."""
        start = time.monotonic()
        # The first checkpoint must hold its own timer, too, so that a run that resumes from it
        # logs the same metrics.
        self.counters.seconds.setdefault("checkpoint", 0.0)
        with self.counters.timed("checkpoint"):
            written = self._save()
        # A run that is stopped before its first rollout after a restart has nothing new to save.
        if not written:
            return
        rollout, updates = self.counters.rollouts, self.counters.updates
        fields = {
            "update": updates,
            "rollout": rollout,
            "seconds": round(time.monotonic() - start, 3),
            "place": self.checkpoints.location,
        }
        logger.info("saved update %d", updates, extra=machine_event("checkpoint_saved", **fields))

    def _save(self) -> bool:
        """Write a checkpoint; return on all ranks whether the first one did."""
        # All are collective: all ranks gather, the first one writes.
        policy, algorithm = self.engine.state(), _on_cpu(self.algorithm.state())
        past = self.past.state()
        if not self.process_group.is_first:
            # Also a barrier: a rank that is preempted exits after saving, and the launcher would
            # then end the first one in the middle of its write.
            return bool(self.process_group.all_reduce_max(0.0))
        optimizer = self.discriminator_updater.state()
        checkpoint = Checkpoint(
            tensors={
                "policy": policy,
                "algorithm": algorithm,
                "average": _on_cpu(self.average.values),
                "best": _on_cpu(self.best.values),
                "discriminator": _on_cpu(self.discriminator.trainable_parameters()),
                "discriminator_optimizer": optimizer,
                "replay": self.replay.state(),
                "past": past,
                # Pictures are not in the history, so they are lost with the machine unless they are
                # kept here.
                UNSENT: {
                    # frombuffer warns about `bytes`, which are not writable. safetensors holds
                    # tensors only.
                    f"{step} {name}": torch.frombuffer(bytearray(png), dtype=torch.uint8)
                    for name, step, png in self.logger.unsent_pictures()
                },
            },
            metadata={
                "rollouts": self.counters.rollouts,
                "updates": self.counters.updates,
                "images_sampled": self.counters.images_sampled,
                "skipped": self.counters.skipped,
                "skipped_in_a_row": self.counters.skipped_in_a_row,
                "seconds": self.counters.seconds,
                "best_metrics": self.best.metrics,
                "base_alignment": self.best.base_alignment,
                "history": self.history,
            },
            rollout=self.counters.rollouts,
        )
        return bool(self.process_group.all_reduce_max(float(self.checkpoints.save(checkpoint))))

    def resume(self) -> bool:
        """Resume from the newest sound checkpoint, if there is one; every rank must call it.

        The history is logged again: a machine that was lost may have held records that MLflow did
        not have yet.

        Returns:
            Whether there is one.

        Raises:
            CheckpointError: If no checkpoint is sound, or not all ranks see them.
        """
        checkpoint = self._agree_on_checkpoint()
        if checkpoint is None:
            return False
        parts, metadata = checkpoint.tensors, checkpoint.metadata
        self.engine.load_state(parts["policy"])
        self.algorithm.load_state(parts["algorithm"])
        for name, value in self.average.values.items():
            value.copy_(parts["average"][name])
        with torch.no_grad():
            # In place, because the optimizer holds these very parameters.
            for name, parameter in self.discriminator.trainable_parameters().items():
                parameter.copy_(parts["discriminator"][name])
        self.discriminator_updater.load_state(parts["discriminator_optimizer"])
        self.replay.load_state(dict(parts["replay"]))
        self.past.load_state(parts["past"])
        self.best.values = dict(parts["best"])
        self.best.metrics = metadata["best_metrics"]
        self.best.base_alignment = metadata["base_alignment"]
        self.counters.rollouts = metadata["rollouts"]
        self.counters.updates = metadata["updates"]
        self.counters.images_sampled = metadata["images_sampled"]
        self.counters.skipped = metadata["skipped"]
        self.counters.skipped_in_a_row = metadata["skipped_in_a_row"]
        # The first rank's: only that rank's timers are ever logged.
        self.counters.seconds = metadata["seconds"]
        self.history[:] = metadata["history"]
        self._log_again(parts[UNSENT])
        return True

    def _agree_on_checkpoint(self) -> Checkpoint | None:
        """Read the newest checkpoint that is sound on every rank."""
        # A checkpoint may be damaged, or not visible yet, on one rank only: go back until all ranks
        # load the same one.
        last = None
        while True:
            checkpoint = self.checkpoints.load_newest(self.process_group.rank, last=last)
            rollout = float(_NO_ROLLOUT if checkpoint is None else checkpoint.rollout)
            last, newest = (
                int(self.process_group.all_reduce_min(rollout)),
                int(self.process_group.all_reduce_max(rollout)),
            )
            # Equal on all ranks, so that all of them leave the loop in the same turn.
            if newest == last:
                return checkpoint
            # Going back further would train from the start and overwrite the run's checkpoints.
            if last == _NO_ROLLOUT:
                raise CheckpointError(
                    f"some training processes find a checkpoint in {self.checkpoints.location} and "
                    "others none",
                    repair="put the workspace where all machines see the same files, such as s3://",
                )

    def _log_again(self, pictures: Mapping[str, Tensor]) -> None:
        for row in self.history:
            metrics = {name: value for name, value in row.items() if name != "update"}
            self.logger.metrics(metrics, int(row["update"]))
        for key, png in pictures.items():
            # The number comes first, so that a name may contain spaces.
            step, _, name = key.partition(" ")
            self.logger.picture(name, int(step), png.numpy().tobytes())


def _on_cpu(tensors: dict[str, Tensor] | dict[str, torch.nn.Parameter]) -> dict[str, Tensor]:
    # Not cloned: a checkpoint is written before training continues.
    return {name: value.detach().cpu() for name, value in tensors.items()}
