import json
import os
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from advgrpo.training.loop import train_on_rollout
from tests.training.conftest import World
from tests.training.zero_program import RESUMED, STAGES, tensors_of

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def trained(world: World, warm_interpreter: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("zero")
    for name in STAGES:
        # Writes the pre-trained discriminator that both ranks read.
        world.pretrained(output / name)
    done = subprocess.run(
        [str(warm_interpreter), "-m", "tests.training.zero_program", world.prompts.parent, output],
        cwd=ROOT,
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
        capture_output=True,
        text=True,
        check=False,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return output


def different(folder: Path, first: str, second: str) -> list[str]:
    ours, theirs = (load_file(folder / f"{name}.safetensors") for name in (first, second))
    assert ours.keys() == theirs.keys()
    return [name for name in ours if not torch.equal(ours[name], theirs[name])]


@pytest.mark.parametrize("stage", list(STAGES)[1:])
def test_every_stage_takes_the_same_optimizer_step(trained: Path, stage: str) -> None:
    alone = load_file(trained / _plain(stage) / "before-evaluation.safetensors")
    spread = load_file(trained / stage / "before-evaluation.safetensors")
    _assert_same_step(spread, alone, in_half="bfloat16" in stage)
    metrics = json.loads((trained / stage / "metrics.json").read_text("utf-8"))
    assert metrics.get("policy/ratio_error_before_step", 0) == 0


def test_two_ranks_of_another_algorithm_take_the_optimizer_step_of_one(
    trained: Path, world: World, tmp_path: Path
) -> None:
    state = world.state(tmp_path, *STAGES["nft"])
    train_on_rollout(state)
    two = load_file(trained / "nft" / "before-evaluation.safetensors")
    _assert_same_step(two, tensors_of(state), in_half=False)


def _plain(stage: str) -> str:
    return "nft" if stage.startswith("nft") else "ddp"


def _assert_same_step(
    spread: dict[str, torch.Tensor], alone: dict[str, torch.Tensor], *, in_half: bool
) -> None:
    assert alone.keys() == spread.keys()
    for name, value in alone.items():
        if name.startswith("policy.exp_avg."):
            # A tenth of the gradient.
            assert float((spread[name] - value).norm()) <= (0.2 if in_half else 1e-3) * float(
                value.norm()
            ), name
        elif "weight" in name and not in_half:
            # Adam divides a gradient by its own size: rounding turns those that are nearly zero.
            assert float(((spread[name] - value).abs() > 2e-4).float().mean()) < 0.02, name


@pytest.mark.parametrize("stage", RESUMED)
def test_measuring_the_moving_average_leaves_the_weights_as_they_were(
    trained: Path, stage: str
) -> None:
    assert different(trained / stage, "before-evaluation", "saved") == []


@pytest.mark.parametrize("stage", RESUMED)
def test_a_resumed_run_continues_with_the_same_bits(trained: Path, stage: str) -> None:
    assert different(trained / stage, "saved", "resumed") == []
    assert different(trained / stage, "undisturbed", "resumed and trained") == []
    assert len(different(trained / stage, "saved", "undisturbed")) > 100
