"""Each kind of discriminator is trained by two ranks as by one, and ends with equal bits."""

import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from advgrpo.testing import TINY_BACKBONES, write_tiny_backbone
from tests.training.conftest import World
from tests.training.discriminator_rank_program import discriminators, main

pytestmark = pytest.mark.slow
KINDS = [*TINY_BACKBONES, "layers", "pickscore_1", "pickscore_2"]


@pytest.fixture(scope="module")
def trained(world: World, warm_interpreter: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    models, output = world.prompts.parent, tmp_path_factory.mktemp("discriminators")
    for kind in TINY_BACKBONES:
        write_tiny_backbone(models, kind)
    launch = [
        str(warm_interpreter),
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node=2",
    ]
    program = ["-m", "tests.training.discriminator_rank_program", str(models), str(output)]
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [*launch, *program], cwd=root, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    main(models, output)
    return output


@pytest.mark.parametrize("kind", KINDS)
def test_both_ranks_hold_the_same_float32_bits(trained: Path, kind: str) -> None:
    first, second = (load_file(trained / f"{kind}-{r}-of-2.safetensors") for r in (0, 1))
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []
    assert {value.dtype for value in first.values()} == {torch.float32}


@pytest.mark.parametrize("kind", KINDS)
def test_two_ranks_take_the_steps_that_one_takes(trained: Path, kind: str) -> None:
    together = load_file(trained / f"{kind}-0-of-2.safetensors")
    alone = load_file(trained / f"{kind}-0-of-1.safetensors")
    for name, value in alone.items():
        if name.startswith("adam.exp_avg."):
            torch.testing.assert_close(together[name], value, atol=2e-4, rtol=2e-2)


def test_every_kind_is_tested(world: World) -> None:
    assert list(discriminators(world.prompts.parent)) == KINDS
