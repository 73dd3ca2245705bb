"""Program of the test of engines and stages: two ranks that train, save and resume in each.

The ranks are forked after all was imported, which takes longer than what they do.
"""

import json
import os
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from advgrpo.data.prompts import read_prompts
from advgrpo.reference_images.image_set import validate_reference_images
from advgrpo.runtime.process_group import ProcessGroup, free_port
from advgrpo.testing import TinyModels
from advgrpo.training.loop import train_on_rollout
from advgrpo.training.metrics import measure_held_out
from advgrpo.training.state import TrainingState
from tests.loaded_once import reading_models_once
from tests.training.conftest import World

RANKS = 2
GUIDED = "training.sampling.guidance_scale=2"
NFT = ["training.algorithm={type: nft}", "training.sampling.guidance_scale=1"]
STAGES = {
    "ddp": ["training.engine=ddp"],
    "2": ["training.zero_stage=2"],
    "2, offloaded": ["training.zero_stage=2", "training.offload=optimizer"],
    "nft": NFT,
    # DeepSpeed replaces torch's linear layer in a process that has used stage 3; its own rounds
    # otherwise, so these come last.
    "3": ["training.zero_stage=3", "policy.guidance=two_passes"],
    "nft, 3": [*NFT, "training.zero_stage=3"],
    "3, offloaded, in bfloat16": [
        "training.zero_stage=3",
        "training.offload=optimizer_and_weights",
        "policy.forward_dtype=bfloat16",
    ],
}
RESUMED = ("ddp", "2, offloaded", "nft, 3", "3", "3, offloaded, in bfloat16")


def tensors_of(state: TrainingState) -> dict[str, torch.Tensor]:
    """Return all that a run needs to continue identically."""
    tensors = {f"policy.{k}": v for k, v in state.engine.state().items()}
    tensors |= {f"adapter.{k}": v for k, v in state.engine.adapter().items()}
    tensors |= {f"algorithm.{k}": v.clone() for k, v in state.algorithm.state().items()}
    return tensors | {f"average.{k}": v.clone() for k, v in state.average.values.items()}


def run_rank(world: World, output: Path, rank: int) -> None:
    """Train on two rollouts in each stage, with and without a stop between them."""
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(RANKS), LOCAL_RANK=str(rank))
    torch.set_num_threads(1)
    process_group = ProcessGroup()
    process_group.connect()
    for name, overrides in STAGES.items():
        settings = [GUIDED, *overrides]
        state = world.state(output / name, *settings, process_group=process_group)
        metrics = train_on_rollout(state)
        state.log_metrics(metrics)
        states = {"before-evaluation": tensors_of(state)}
        if name in RESUMED:
            measure_held_out(state)
            states["saved"] = tensors_of(state)
            state.save()
            again = world.state(output / name, *settings, process_group=process_group)
            assert again.resume()
            states["resumed"] = tensors_of(again)
            train_on_rollout(state)
            states["undisturbed"] = tensors_of(state)
            train_on_rollout(again)
            states["resumed and trained"] = tensors_of(again)
        if rank == 0:
            for moment, tensors in states.items():
                save_file(tensors, output / name / f"{moment}.safetensors")
            (output / name / "metrics.json").write_text(json.dumps(metrics), "utf-8")
    # Its import takes seconds, and nothing was compiled.
    assert "torch._inductor.compile_fx" not in sys.modules
    torch.distributed.destroy_process_group()


def main(models: Path, output: Path) -> None:
    prompts = models / "train.txt"
    reference_images = validate_reference_images(
        models / "reference_images", read_prompts(str(prompts)), 1, 32, seed=0
    )
    tiny = TinyModels(models / "pipeline", models / "dino", models / "pickscore")
    world = World(tiny, prompts, reference_images)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(free_port()))
    with reading_models_once():
        torch.multiprocessing.start_processes(
            lambda rank: run_rank(world, output, rank), nprocs=RANKS, start_method="fork"
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
