"""All parts of a training run, and the state that a checkpoint holds."""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from advgrpo.config import TrainingConfig
from advgrpo.discriminator import Discriminator
from advgrpo.discriminator.replay import ReplayPool
from advgrpo.events import quiet
from advgrpo.policy import Sd3Policy
from advgrpo.policy.ema import MovingAverage
from advgrpo.records import PromptSet
from advgrpo.training.best import BestAdapter
from advgrpo.training.checkpoint import Checkpoint, Checkpoints
from advgrpo.training.counters import Counters
from advgrpo.training.discriminator_update import DiscriminatorUpdater
from advgrpo.training.engine import PolicyEngine
from advgrpo.training.guard import Guard
from advgrpo.training.monitors import Logger, Monitor
from advgrpo.training.policy_update import PolicyUpdater
from advgrpo.training.ranks import Ranks
from advgrpo.training.reference_features import ReferenceFeatures
from advgrpo.training.reward import ReferenceRewards, Reward
from advgrpo.training.rollout import Denoiser
from advgrpo.training.stopping import StopSignal
from advgrpo.training.stragglers import Stragglers

logger = logging.getLogger("advgrpo")


@dataclass(frozen=True)
class Session:
    """A run, ready to be trained."""

    config: TrainingConfig
    seed: int
    prompts: PromptSet
    ranks: Ranks
    policy: Sd3Policy
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
    guard: Guard
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

    def note(self, measures: Mapping[str, float]) -> None:
        """Add measures of the present update to the history, and tell the logger."""
        row = {"update": float(self.counters.updates), **measures}
        if self.history and self.history[-1]["update"] == row["update"]:
            self.history[-1] |= row
        else:
            self.history.append(row)
        self.logger.metrics(measures, self.counters.updates)

    def save(self) -> None:
        """Write a checkpoint; every rank must call it."""
        start = time.monotonic()
        with self.counters.timed("checkpoint"):
            self._save()
        turn, updates = self.counters.turns, self.counters.updates
        facts = {
            "update": updates,
            "turn": turn,
            "seconds": round(time.monotonic() - start, 3),
            "place": self.checkpoints.location,
        }
        logger.info("update %d is saved", updates, extra=quiet("checkpoint_saved", **facts))

    def _save(self) -> None:
        policy = self.engine.state()
        if not self.ranks.is_first:
            self.ranks.wait()
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
            },
            facts={
                "turns": self.counters.turns,
                "updates": self.counters.updates,
                "images_sampled": self.counters.images_sampled,
                "skipped": self.counters.skipped,
                "skipped_in_a_row": self.counters.skipped_in_a_row,
                "seconds": self.counters.seconds,
                "best_measures": self.best.measures,
                "base_alignment": self.best.base_alignment,
                "history": self.history,
            },
        )
        self.checkpoints.save(self.counters.turns, checkpoint)
        self.ranks.wait()

    def resume(self) -> bool:
        """Take up the newest checkpoint, if there is one; every rank must call it."""
        checkpoint = self.checkpoints.load_newest(self.ranks.rank)
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
        self.best.measures = facts["best_measures"]
        self.best.base_alignment = facts["base_alignment"]
        self.counters.turns = facts["turns"]
        self.counters.updates = facts["updates"]
        self.counters.images_sampled = facts["images_sampled"]
        self.counters.skipped = facts["skipped"]
        self.counters.skipped_in_a_row = facts["skipped_in_a_row"]
        self.counters.seconds = facts["seconds"]
        self.history[:] = facts["history"]
        return True


def _on_cpu(tensors: dict[str, Tensor] | dict[str, torch.nn.Parameter]) -> dict[str, Tensor]:
    return {name: value.detach().cpu() for name, value in tensors.items()}
