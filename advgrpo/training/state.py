"""All parts of a training run, and the state that a checkpoint holds."""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from advgrpo.config import TrainingConfig
from advgrpo.errors import CheckpointError
from advgrpo.models.discriminators import Discriminator
from advgrpo.models.discriminators.replay import ReplayPool
from advgrpo.models.policies import Policy
from advgrpo.models.policies.ema import MovingAverage
from advgrpo.records import PromptSet
from advgrpo.runtime.process_group import ProcessGroup
from advgrpo.telemetry.logging import machine_event
from advgrpo.training.best import BestAdapter
from advgrpo.training.checkpoint import UNSENT, Checkpoint, Checkpoints
from advgrpo.training.counters import Counters
from advgrpo.training.discriminator_update import DiscriminatorUpdater
from advgrpo.training.engine import PolicyEngine
from advgrpo.training.held_out import Logger, Monitor
from advgrpo.training.nonfinite import NonFiniteGuard
from advgrpo.training.policy_update import PolicyUpdater
from advgrpo.training.reference_features import ReferenceFeatures
from advgrpo.training.reward import ReferenceRewards, Reward
from advgrpo.training.rollout import Denoiser
from advgrpo.training.stopping import StopSignal
from advgrpo.training.stragglers import Stragglers

logger = logging.getLogger("advgrpo")

_NO_TURN = -1


@dataclass(frozen=True)
class TrainingState:
    """A run, ready to be trained."""

    config: TrainingConfig
    seed: int
    prompts: PromptSet
    process_group: ProcessGroup
    policy: Policy
    engine: PolicyEngine
    denoiser: Denoiser
    average: MovingAverage
    policy_updater: PolicyUpdater
    discriminator: Discriminator
    discriminator_updater: DiscriminatorUpdater
    replay: ReplayPool
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
        """Look prompts up."""
        return [self.prompts.texts[index] for index in prompt_ids]

    def note(self, metrics: Mapping[str, float]) -> None:
        """Add measures of the present update to the history, and tell the logger."""
        row = {"update": float(self.counters.updates), **metrics}
        if self.history and self.history[-1]["update"] == row["update"]:
            self.history[-1] |= row
        else:
            self.history.append(row)
        self.logger.metrics(metrics, self.counters.updates)

    def save(self) -> None:
        """Write a checkpoint; every rank must call it."""
        start = time.monotonic()
        # The first one holds its own name, too: a run that goes on from it notes the same measures.
        self.counters.seconds.setdefault("checkpoint", 0.0)
        with self.counters.timed("checkpoint"):
            self._save()
        turn, updates = self.counters.turns, self.counters.updates
        facts = {
            "update": updates,
            "turn": turn,
            "seconds": round(time.monotonic() - start, 3),
            "place": self.checkpoints.location,
        }
        logger.info("update %d is saved", updates, extra=machine_event("checkpoint_saved", **facts))

    def _save(self) -> None:
        policy = self.engine.state()
        if not self.process_group.is_first:
            self.process_group.barrier()
            return
        optimizer = self.discriminator_updater.state()
        checkpoint = Checkpoint(
            tensors={
                "policy": policy,
                "average": _on_cpu(self.average.values),
                "best": _on_cpu(self.best.values),
                "discriminator": _on_cpu(self.discriminator.trainable_parameters()),
                "discriminator_optimizer": optimizer,
                "replay": self.replay.state(),
                UNSENT: {
                    f"{step} {name}": torch.frombuffer(bytearray(png), dtype=torch.uint8)
                    for name, step, png in self.logger.unsent_pictures()
                },
            },
            facts={
                "turns": self.counters.turns,
                "updates": self.counters.updates,
                "images_sampled": self.counters.images_sampled,
                "skipped": self.counters.skipped,
                "skipped_in_a_row": self.counters.skipped_in_a_row,
                "seconds": self.counters.seconds,
                "best_measures": self.best.metrics,
                "base_alignment": self.best.base_alignment,
                "history": self.history,
            },
            turn=self.counters.turns,
        )
        self.checkpoints.save(checkpoint)
        self.process_group.barrier()

    def resume(self) -> bool:
        """Take up the newest sound checkpoint, if there is one; every rank must call it.

        The logger is told again what the checkpoint holds: a machine that was lost may have taken
        records along that MLflow had not yet got.

        Returns:
            Whether there is one.

        Raises:
            CheckpointError: If no checkpoint is sound, or not all ranks see them.
        """
        checkpoint = self._agreed_checkpoint()
        if checkpoint is None:
            return False
        parts, facts = checkpoint.tensors, checkpoint.facts
        self.engine.load_state(parts["policy"])
        for name, value in self.average.values.items():
            value.copy_(parts["average"][name])
        with torch.no_grad():
            for name, parameter in self.discriminator.trainable_parameters().items():
                parameter.copy_(parts["discriminator"][name])
        self.discriminator_updater.load_state(parts["discriminator_optimizer"])
        self.replay.load_state(dict(parts["replay"]))
        self.best.values = dict(parts["best"])
        self.best.metrics = facts["best_measures"]
        self.best.base_alignment = facts["base_alignment"]
        self.counters.turns = facts["turns"]
        self.counters.updates = facts["updates"]
        self.counters.images_sampled = facts["images_sampled"]
        self.counters.skipped = facts["skipped"]
        self.counters.skipped_in_a_row = facts["skipped_in_a_row"]
        self.counters.seconds = facts["seconds"]
        self.history[:] = facts["history"]
        self._tell_again(parts[UNSENT])
        return True

    def _agreed_checkpoint(self) -> Checkpoint | None:
        """Read the newest checkpoint that every rank finds sound."""
        last = None
        while True:
            checkpoint = self.checkpoints.load_newest(self.process_group.rank, last=last)
            turn = float(_NO_TURN if checkpoint is None else checkpoint.turn)
            last, newest = (
                int(self.process_group.all_reduce_min(turn)),
                int(self.process_group.all_reduce_max(turn)),
            )
            if newest == last:
                return checkpoint
            if last == _NO_TURN:
                raise CheckpointError(
                    f"some training processes find a checkpoint in {self.checkpoints.location} and "
                    "others none",
                    repair="keep the workspace where all machines see the same, such as s3://",
                )

    def _tell_again(self, pictures: Mapping[str, Tensor]) -> None:
        for row in self.history:
            metrics = {name: value for name, value in row.items() if name != "update"}
            self.logger.metrics(metrics, int(row["update"]))
        for key, png in pictures.items():
            step, _, name = key.partition(" ")
            self.logger.picture(name, int(step), png.numpy().tobytes())


def _on_cpu(tensors: dict[str, Tensor] | dict[str, torch.nn.Parameter]) -> dict[str, Tensor]:
    return {name: value.detach().cpu() for name, value in tensors.items()}
