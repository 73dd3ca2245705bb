"""One rank of the two-rank tests: train and write this rank's weights."""

import json
import sys
from pathlib import Path

from safetensors.torch import save_file

from advgrpo.data.prompts import read_prompts
from advgrpo.reference_images.image_set import validate_reference_images
from advgrpo.runtime.process_group import ProcessGroup
from advgrpo.testing import TinyModels
from advgrpo.training.loop import train
from tests.training.conftest import World

REPLAYING = (
    "training.algorithm={type: nft}",
    "training.rollout.replayed_rollouts=1",
    "training.rollout.references_per_prompt=2",
    "training.rollout.update_microbatch_size=2",
)


def main(models: Path, output: Path) -> None:
    prompts = models / "train.txt"
    reference_images = validate_reference_images(
        models / "reference_images", read_prompts(str(prompts)), 1, 32, seed=0
    )
    tiny = TinyModels(models / "pipeline", models / "dino", models / "pickscore")
    process_group = ProcessGroup()
    process_group.connect()
    world = World(tiny, prompts, reference_images)
    state = world.state(output, "training.checkpoint_every_updates=1", process_group=process_group)
    state.resume()
    train(state)
    discriminator = state.discriminator.trainable_parameters()
    tensors = {f"discriminator.{name}": p.detach().clone() for name, p in discriminator.items()}
    tensors |= {f"policy.{name}": value for name, value in state.engine.state().items()}
    tensors |= {f"replay.{name}": value for name, value in state.replay.state().items()}
    held_out = [{k: row[k] for k in row if k.startswith("held_out/")} for row in state.history]
    (output / f"held-out-{process_group.rank}.json").write_text(json.dumps(held_out), "utf-8")
    save_file(
        tensors, output / f"rank-{process_group.rank}-of-{process_group.world_size}.safetensors"
    )
    replaying = world.state(output / "replaying", *REPLAYING, process_group=process_group)
    train(replaying)
    policy = {f"policy.{name}": value for name, value in replaying.engine.state().items()}
    past = {f"past.{name}": value for name, value in replaying.past.state().items()}
    save_file(policy | past, output / f"replaying-{process_group.rank}.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
