"""Assembly of a training run from its settings and inputs."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from advgrpo.config.discriminator import DiscriminatorConfig
from advgrpo.config.evaluation import DistanceConfig
from advgrpo.config.policy import PolicyConfig, SamplingConfig
from advgrpo.config.training import TrainingConfig
from advgrpo.data.sampler import share_of_rank
from advgrpo.errors import ConfigError
from advgrpo.models.backbones.dino import DinoBackbone
from advgrpo.models.discriminators.build import build_discriminator
from advgrpo.models.discriminators.replay import ReplayPool
from advgrpo.models.discriminators.saving import load_discriminator
from advgrpo.models.policies.ema import MovingAverage
from advgrpo.models.policies.embeddings import StoredEmbeddings
from advgrpo.models.policies.loading import load_policy
from advgrpo.models.policies.pipeline_parts import DTYPES
from advgrpo.models.policies.speed import PolicySpeed
from advgrpo.models.scorers.base import Scorer, check_metrics_cover
from advgrpo.records import PromptSet, ReferenceImageSet
from advgrpo.runtime.process_group import ProcessGroup
from advgrpo.training.algorithms.registry import build_algorithm
from advgrpo.training.best import BestAdapter
from advgrpo.training.checkpoint import Checkpoints
from advgrpo.training.counters import Counters
from advgrpo.training.discriminator_update import DiscriminatorUpdater
from advgrpo.training.engines.build import build_engine
from advgrpo.training.held_out import LEAST_CRITIC_PROMPTS, HeldOutMonitor, Logger
from advgrpo.training.nonfinite import NonFiniteGuard
from advgrpo.training.past_rollouts import PastRollouts
from advgrpo.training.policy_update import PolicyUpdater
from advgrpo.training.reference_features import ReferenceFeatures
from advgrpo.training.reward import ReferenceRewards, Reward
from advgrpo.training.state import TrainingState
from advgrpo.training.stopping import StopSignal
from advgrpo.training.stragglers import Stragglers

logger = logging.getLogger("advgrpo")

_LEAST_MEASURED = 2
"""Held-out prompts at least: a single image has no covariance, so no distance to a set."""


@dataclass(frozen=True)
class Inputs:
    """Settings and inputs of a training run.

    Args:
        seed: The run's seed.
        policy: Settings of the policy.
        discriminator: Settings of the discriminator.
        training: Settings of the loop.
        distance: Feature space of the held-out distance.
        alignment: Metric of a scorer that stands for alignment, as `scorer.metric`.
        evaluation_sampling: Steps and guidance of held-out images.
        scorers: Frozen scorers of held-out images.
        reward_scorers: The frozen scorer of each term of the reward, by the term's name.
        prompts: The training prompts.
        reference_images: Of the training prompts.
        pretrained_discriminator: Folder that reward pre-training wrote.
        features: Local folder or `s3://` location for features of the reference images.
        embeddings: Of the prompts of the run; None encodes each when it is first needed.
    """

    seed: int
    policy: PolicyConfig
    discriminator: DiscriminatorConfig
    training: TrainingConfig
    distance: DistanceConfig
    alignment: str
    evaluation_sampling: SamplingConfig
    scorers: Sequence[Scorer]
    reward_scorers: Mapping[str, Scorer]
    prompts: PromptSet
    reference_images: ReferenceImageSet
    pretrained_discriminator: Path
    features: str
    embeddings: StoredEmbeddings | None = None


def build_training_state(
    inputs: Inputs, *, process_group: ProcessGroup, checkpoints: Checkpoints, logger: Logger
) -> TrainingState:
    """Load the models and build the optimizers; every rank must call it.

    Args:
        inputs: Settings and inputs of the run.
        process_group: The training processes.
        checkpoints: Of the run.
        logger: Destination of metrics; only the first rank's is used.

    Raises:
        WeightsError: If weights are missing, damaged or of another architecture.
        ConfigError: If too few held-out prompts are left, or the metric of alignment or a term of
            the reward has no value for some prompts.
    """
    config, seed, device = inputs.training, inputs.seed, process_group.device
    policy = load_policy(inputs.policy, device, seed=seed, embeddings=inputs.embeddings)
    if (backend := config.compile_backend(on_gpu=device.type == "cuda")) is not None:
        policy.compile(backend)
    engine = build_engine(
        policy, config, process_group, backwards_per_step=backwards_per_step(config, process_group)
    )
    discriminator = build_discriminator(inputs.discriminator, device, seed=seed)
    load_discriminator(inputs.pretrained_discriminator, discriminator)
    references = ReferenceFeatures(
        inputs.reference_images,
        inputs.prompts,
        discriminator,
        held_out_fraction=inputs.discriminator.held_out_fraction,
        store=inputs.features,
        process_group=process_group,
    )
    algorithm = build_algorithm(config.algorithm, config.sampling, policy, engine, seed=seed)
    # Through the engine: under ZeRO-3 the policy's own parameters are empty shards.
    average = MovingAverage(engine.adapter(), limit=inputs.policy.adapter.ema_decay)
    texts = inputs.prompts.texts
    held_out = _held_out_prompts(config, references, process_group)
    reward = Reward(config.reward, discriminator, inputs.reward_scorers)
    # Held-out ones as well, which are rewarded, too. Prompts without images are never drawn.
    reward.check_prompts([text for text in texts if inputs.reference_images.files.get(text)])
    # The watchdog names the part of the work that a rank hangs in.
    counters = Counters(on_enter=process_group.monitor.enter)
    guard = NonFiniteGuard(
        policy,
        engine,
        algorithm,
        texts,
        config,
        counters,
        process_group,
        seed=seed,
        store=checkpoints.location,
    )
    held_out_texts = [texts[index] for index in held_out]
    check_metrics_cover(
        inputs.alignment, inputs.scorers, held_out_texts, setting="evaluation.alignment"
    )
    monitor = HeldOutMonitor(
        held_out_texts,
        inputs.reference_images,
        DinoBackbone(
            inputs.distance.weights,
            resolution_pixels=inputs.distance.resolution_pixels,
            device=device,
        ),
        inputs.scorers,
        inputs.evaluation_sampling,
        process_group,
        batch_size=config.rollout.microbatch,
        seed=seed,
    )
    return TrainingState(
        config=config,
        seed=seed,
        prompts=inputs.prompts,
        process_group=process_group,
        policy=policy,
        # A held-out prompt: its embedding is stored in any case.
        speed=PolicySpeed(policy, held_out_texts[0], DTYPES[inputs.policy.forward_dtype]),
        engine=engine,
        algorithm=algorithm,
        average=average,
        policy_updater=PolicyUpdater(
            policy, engine, algorithm, average, guard, config, process_group
        ),
        discriminator=discriminator,
        discriminator_updater=DiscriminatorUpdater(
            discriminator,
            references,
            texts,
            inputs.discriminator.optimizer,
            process_group,
            seed=seed,
        ),
        replay=ReplayPool(inputs.discriminator.optimizer.replay_images),
        past=_past_rollouts(config, process_group),
        references=references,
        reward=reward,
        reference_rewards=ReferenceRewards(
            reward, references, inputs.reference_images, inputs.prompts, held_out
        ),
        guard=guard,
        stragglers=Stragglers(process_group, slow_ratio=config.hangs.slow_ratio),
        monitor=monitor,
        best=BestAdapter(config.monitoring, alignment=f"held_out/{inputs.alignment}"),
        counters=counters,
        history=[],
        checkpoints=checkpoints,
        stop=StopSignal(process_group),
        logger=logger,
    )


def _past_rollouts(config: TrainingConfig, process_group: ProcessGroup) -> PastRollouts:
    rollout = config.rollout
    steps = share_of_rank(
        range(rollout.prompts_per_update),
        group_size=rollout.group_size,
        optimizer_steps=config.optimizer_steps_per_update,
        world_size=process_group.world_size,
        rank=process_group.rank,
    )
    return PastRollouts(
        rollout.replayed_rollouts,
        group_size=rollout.group_size,
        optimizer_steps=config.optimizer_steps_per_update,
        positions=[plan.position for step in steps for plan in step],
        process_group=process_group,
    )


def _held_out_prompts(
    config: TrainingConfig, references: ReferenceFeatures, process_group: ProcessGroup
) -> tuple[int, ...]:
    """Choose the held-out prompts of the metrics during training."""
    held_out = references.held_out_ids[: config.monitoring.held_out_prompts]
    # Equal shares, because gathering needs tensors of the same shape on each rank.
    held_out = held_out[: len(held_out) // process_group.world_size * process_group.world_size]
    if len(held_out) < _LEAST_MEASURED:
        raise ConfigError(
            f"{len(held_out)} held-out prompts are left for metrics on "
            f"{process_group.world_size} processes; at least {_LEAST_MEASURED} are needed",
            repair="raise training.monitoring.held_out_prompts or discriminator.held_out_fraction, "
            "use fewer processes, or more reference images",
        )
    on = config.monitoring.watch.action != "none"
    if on and len(held_out) < LEAST_CRITIC_PROMPTS and process_group.is_first:
        logger.warning(
            "%d held-out prompts are too few to detect a hacked reward, which needs %d: raise "
            "training.monitoring.held_out_prompts and discriminator.held_out_fraction, or use more "
            "prompts",
            len(held_out),
            LEAST_CRITIC_PROMPTS,
        )
    return held_out


def backwards_per_step(config: TrainingConfig, process_group: ProcessGroup) -> int:
    """Count the backward passes of a rank in one optimizer step."""
    rollout = config.rollout
    images = rollout.trained_images // config.optimizer_steps_per_update
    microbatches = images // process_group.world_size // rollout.microbatch_of_update
    return microbatches * config.algorithm.trained_steps
