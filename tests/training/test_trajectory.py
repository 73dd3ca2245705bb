"""The first updates of the pocket model, compared with a recorded trajectory.

Numbers may move by rounding between machines, not by more.
`python -m tests.training.test_trajectory` rewrites the file; state the reason in the commit.
"""

import json
import sys
import tempfile
from pathlib import Path

import pytest

from advgrpo.data.prompts import read_prompts
from advgrpo.pocket.models import WEIGHTS_PATH
from advgrpo.pocket.source import PocketRenderer
from advgrpo.reference_images.generation import generate_reference_images
from advgrpo.reference_images.image_set import validate_reference_images
from advgrpo.testing import TinyModels
from advgrpo.training.loop import train
from tests.training.conftest import PACKAGED, World

RECORDED = Path(__file__).parent / "trajectory.json"
METRICS = (
    "reward/discriminator",
    "reward/pickscore",
    "policy/loss",
    "policy/gradient_norm",
    "discriminator/loss",
    "discriminator/gradient_norm",
    "rollout/diversity_in_group",
    "held_out/distance",
    "held_out/reward",
)


def trajectory(folder: Path) -> list[dict[str, float]]:
    """Train three updates and return their metrics."""
    prompts = folder / "train.txt"
    prompts.write_text("\n".join(PACKAGED.read_text("utf-8").splitlines()[:320:10]), "utf-8")
    models = TinyModels(*(WEIGHTS_PATH / part for part in ("pipeline", "dino", "pickscore")))
    generate_reference_images(
        PocketRenderer(),
        read_prompts(str(prompts)),
        models.config().reference_images,
        images_per_prompt=1,
        seed=0,
        location=folder / "reference_images",
    )
    reference_images = validate_reference_images(
        folder / "reference_images", read_prompts(str(prompts)), 1, 32, seed=0
    )
    state = World(models, prompts, reference_images).state(
        folder, "training.updates=3", "training.sampling.guidance_scale=1.5"
    )
    train(state)
    return [{name: row[name] for name in METRICS if name in row} for row in state.history]


@pytest.mark.slow
def test_the_first_updates_of_the_pocket_model_are_as_recorded(tmp_path: Path) -> None:
    recorded = json.loads(RECORDED.read_text("utf-8"))
    found = trajectory(tmp_path)
    assert len(found) == len(recorded)
    for row, expected in zip(found, recorded, strict=True):
        assert row == pytest.approx(expected, rel=5e-3, abs=5e-4)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        rows = trajectory(Path(scratch))
    RECORDED.write_text(json.dumps(rows, indent=1) + "\n", "utf-8")
    sys.stdout.write(RECORDED.read_text("utf-8"))
