"""Program of the test of families on two ranks: each trains in ZeRO's stages 2 and 3, one in int8.

The ranks are forked after all was imported, which takes longer than what they do.
"""

import json
import os
import sys
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import torch
from safetensors.torch import save_file

from advgrpo.data.prompts import read_prompts
from advgrpo.reference_images.image_set import validate_reference_images
from advgrpo.runtime.process_group import ProcessGroup, free_port
from advgrpo.testing import TinyModels
from advgrpo.training.loop import train_on_rollout
from tests.loaded_once import reading_models_once
from tests.models.policies.families import FAMILIES
from tests.training.conftest import World

RANKS = 2
# DeepSpeed replaces torch's linear layer in a process that has used stage 3, so it comes last.
CASES = {
    f"{family.name}-{stage}": (family, f"training.zero_stage={stage}")
    for stage in (2, 3)
    for family in FAMILIES
}
INT8 = "int8"
if find_spec("torchao"):
    CASES = {INT8: (FAMILIES[0], "training.engine=ddp"), **CASES}


def run_rank(world: World, models: Path, output: Path, rank: int) -> None:
    """Train on two rollouts in each case."""
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(RANKS), LOCAL_RANK=str(rank))
    torch.set_num_threads(1)
    process_group = ProcessGroup()
    process_group.connect()
    for name, (family, engine) in CASES.items():
        policy = family.settings(
            models / family.name,
            32,
            gradient_checkpointing=True,
            quantization=INT8 if name == INT8 else "none",
        )
        build = partial(
            world.state,
            output / name,
            engine,
            f"training.sampling.guidance_scale={family.guided}",
            process_group=process_group,
            policy=policy,
        )
        state = build()
        metrics = [train_on_rollout(state)]
        if name == INT8:
            state.save()
        metrics.append(train_on_rollout(state))
        trained = state.engine.adapter()
        save_file(trained, output / name / f"rank-{rank}.safetensors")
        if rank == 0:
            errors = [each["policy/ratio_error_before_step"] for each in metrics]
            (output / name / "ratio_errors.json").write_text(json.dumps(errors), "utf-8")
        if name == INT8:
            state = build()
            assert state.resume()
            train_on_rollout(state)
            resumed = state.engine.adapter()
            assert all(torch.equal(resumed[key], value) for key, value in trained.items())
    torch.distributed.destroy_process_group()


def main(world_folder: Path, models: Path, output: Path) -> None:
    prompts = world_folder / "train.txt"
    reference_images = validate_reference_images(
        world_folder / "reference_images", read_prompts(str(prompts)), 1, 32, seed=0
    )
    tiny = TinyModels(*(world_folder / part for part in ("pipeline", "dino", "pickscore")))
    world = World(tiny, prompts, reference_images)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(free_port()))
    with reading_models_once():
        torch.multiprocessing.start_processes(
            lambda rank: run_rank(world, models, output, rank), nprocs=RANKS, start_method="fork"
        )


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
