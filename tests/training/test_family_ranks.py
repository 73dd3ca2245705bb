"""Every family is trained on two ranks."""

import json
import os
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.models.policies.families import FAMILIES
from tests.training.conftest import World
from tests.training.family_program import CASES

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def trained(world: World, warm_interpreter: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("families")
    for family in FAMILIES:
        family.save(output / "models" / family.name)
    for name in CASES:
        # Writes the pre-trained discriminator that both ranks read.
        world.pretrained(output / name)
    program = [str(warm_interpreter), "-m", "tests.training.family_program"]
    done = subprocess.run(
        [*program, world.prompts.parent, output / "models", output],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
        capture_output=True,
        text=True,
        check=False,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return output


@pytest.mark.parametrize("case", CASES)
def test_both_ranks_train_the_same_adapter_from_a_ratio_of_one(trained: Path, case: str) -> None:
    errors = json.loads((trained / case / "ratio_errors.json").read_text("utf-8"))
    assert errors == [0, 0]
    first, second = (load_file(trained / case / f"rank-{r}.safetensors") for r in (0, 1))
    assert [name for name in first if not torch.equal(first[name], second[name])] == []
    ends = [value for name, value in first.items() if ".lora_B." in name]
    # The last layers may discard their text, whose part of the adapter then stays as it was.
    assert sum(bool(value.any()) for value in ends) > len(ends) / 2
