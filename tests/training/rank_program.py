"""What each rank of the two-rank tests runs: train, then write this rank's weights."""

import json
import sys
from pathlib import Path

from safetensors.torch import save_file

from advgrpo.data.prompts import read_prompts
from advgrpo.reference_images.image_set import validate_reference_images
from advgrpo.testing import TinyModels
from advgrpo.training.engine import connect
from advgrpo.training.loop import train
from advgrpo.runtime.process_group import Ranks
from tests.training.conftest import World


def main(models: Path, output: Path) -> None:
    prompts = models / "train.txt"
    reference_images = validate_reference_images(
        models / "reference_images", read_prompts(str(prompts)), 1, 32, seed=0
    )
    tiny = TinyModels(models / "pipeline", models / "dino", models / "pickscore")
    ranks = Ranks()
    connect(ranks)
    world = World(tiny, prompts, reference_images)
    session = world.session(output, "training.checkpoint_every_updates=1", ranks=ranks)
    session.resume()
    train(session)
    discriminator = session.discriminator.trainable_parameters()
    tensors = {f"discriminator.{name}": p.detach().clone() for name, p in discriminator.items()}
    tensors |= {f"policy.{name}": value for name, value in session.engine.state().items()}
    tensors |= {f"replay.{name}": value for name, value in session.replay.state().items()}
    held_out = [{k: row[k] for k in row if k.startswith("held_out/")} for row in session.history]
    (output / f"held-out-{ranks.rank}.json").write_text(json.dumps(held_out), "utf-8")
    save_file(tensors, output / f"rank-{ranks.rank}-of-{ranks.count}.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
