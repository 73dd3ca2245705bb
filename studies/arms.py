"""Arms of the experiments, and the training of one run of an arm."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

from advgrpo.config import RunConfig, resolve
from advgrpo.config.policy import JOINT_ATTENTION
from advgrpo.config.tasks import PretrainingSettings, ReferenceImagesSettings, TrainingSettings
from advgrpo.tasks.pretrain_reward import pretrain_reward
from advgrpo.tasks.reference_images import make_reference_images
from advgrpo.tasks.train import train

# The discriminator is the only reward and the learning rate does not fall, so that nothing but
# the compared setting limits a run.
COMMON = (
    "training.reward={terms: [{type: discriminator}]}",
    "training.optimizer.decay=constant",
    "training.monitoring.select_adapter=last",
    "training.monitoring.held_out_prompts=128",
)

_FORMER = (
    "training.optimizer.learning_rate=5e-3",
    "training.algorithm.old_policy.growth=1e-3",
)
# The preset `pocket_nft` without reference images and earlier rollouts in the policy's updates, and
# with the adapter in the attention layers alone, as it was when these were measured.
GENERATED_ONLY = (
    *_FORMER,
    "training.rollout.references_per_prompt=0",
    "training.rollout.replayed_rollouts=0",
    "training.rollout.update_microbatch_size=null",
    f"policy.adapter.target_modules={json.dumps(JOINT_ATTENTION)}",
)


# The preset before it was shortened.
TWELVE_UPDATES = (
    *_FORMER,
    "training.updates=12",
    "training.rollout.replayed_rollouts=3",
    "training.rollout.update_microbatch_size=48",
)


@dataclass(frozen=True)
class Arm:
    """Settings on top of a pocket preset, compared with those of other arms."""

    name: str
    overrides: tuple[str, ...]
    preset: str = "pocket"


ARMS = {
    arm.name: arm
    for arm in (
        Arm(
            "adversarial",
            (*COMMON, "training.updates=80", "training.monitoring.held_out_every_updates=8"),
        ),
        Arm(
            "frozen",
            (
                *COMMON,
                "training.update_schedule={type: frozen}",
                "training.updates=80",
                "training.monitoring.held_out_every_updates=8",
            ),
        ),
        Arm(
            "released-schedule",
            (
                *COMMON,
                "training.update_schedule={type: released, discriminator_rollouts: 9}",
                "training.updates=12",
                "training.monitoring.held_out_every_updates=2",
            ),
        ),
    )
}


def config_of(arm: Arm, seed: int) -> RunConfig:
    """Return the settings of a run."""
    return resolve(arm.preset, [f"seed={seed}", *arm.overrides])


def prepare(config: RunConfig, folder: Path) -> tuple[str, str]:
    """Make or find the reference images and the pre-trained discriminator of a run."""
    workspace = str(folder / "workspace")
    images = make_reference_images(
        ReferenceImagesSettings.of(config).model_dump_json(), workspace=workspace
    )
    pretrained = pretrain_reward(
        PretrainingSettings.of(config).model_dump_json(),
        reference_images=images.train,
        workspace=workspace,
    )
    return images.train, pretrained.location


def run(arm: Arm, seed: int, folder: Path) -> None:
    """Train an arm with a seed on one process, and record its history."""
    config = config_of(arm, seed)
    images, discriminator = prepare(config, folder)
    result = train(
        TrainingSettings.of(config).model_dump_json(),
        reference_images=images,
        discriminator=discriminator,
        workspace=str(folder / "workspace"),
        processes=1,
    )
    history = Path(result.location) / "history.jsonl"
    (folder / f"{arm.name}-{seed}.jsonl").write_bytes(history.read_bytes())


def read_history(arm: str, seed: int, folder: Path) -> list[dict[str, float]]:
    """Read the rows of a run that have held-out metrics, in order."""
    text = (folder / f"{arm}-{seed}.jsonl").read_text(encoding="utf-8")
    rows: list[dict[str, float]] = [json.loads(line) for line in text.splitlines()]
    return [row for row in rows if "held_out/distance" in row]


if __name__ == "__main__":
    run(ARMS[sys.argv[1]], int(sys.argv[2]), Path(sys.argv[3]))
