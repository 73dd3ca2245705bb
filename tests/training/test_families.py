"""Every family is trained by the real loop, and its adapter draws in `advgrpo generate`."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from advgrpo.config.tasks import GenerationSettings
from advgrpo.data.images import decode_image
from advgrpo.data.prompts import read_prompts
from advgrpo.models.policies import load_policy
from advgrpo.models.policies.adapter import save_adapter
from advgrpo.models.policies.embeddings import StoredEmbeddings
from advgrpo.models.policies.encoding import encode_prompts, unconditional_prompt
from advgrpo.models.policies.sampling import sample_images
from advgrpo.storage import read_bytes
from advgrpo.tasks.generate import generate
from advgrpo.training.loop import train
from advgrpo.training.state import TrainingState
from tests.models.policies.families import FAMILIES, Family
from tests.training.conftest import World

CPU = torch.device("cpu")


@pytest.fixture(scope="module", params=FAMILIES, ids=lambda family: family.name)
def family(request: pytest.FixtureRequest) -> Family:
    found: Family = request.param
    return found


@pytest.fixture(scope="module")
def folder(family: Family, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return family.save(tmp_path_factory.mktemp(family.name))


@pytest.mark.parametrize(("dtype", "updates"), [("float32", 2), ("bfloat16", 1)])
def test_two_updates_train_the_adapter_and_the_ratio_starts_at_one(
    family: Family,
    folder: Path,
    make_state: Callable[..., TrainingState],
    world: World,
    tmp_path: Path,
    dtype: str,
    updates: int,
) -> None:
    config = family.settings(folder, 32, forward_dtype=dtype, gradient_checkpointing=True)
    texts = [unconditional_prompt(config), *read_prompts(str(world.prompts)).texts]
    stored = StoredEmbeddings(encode_prompts(config, texts, store=str(tmp_path)), texts)
    state = make_state(
        f"training.updates={updates}",
        f"training.sampling.guidance_scale={family.guided}",
        policy=config,
        embeddings=stored,
    )

    train(state)

    ratio_error = "policy/ratio_error_before_step"
    assert [row[ratio_error] for row in state.history if ratio_error in row] == [0] * updates
    ends = [v for k, v in state.policy.trainable_parameters().items() if ".lora_B." in k]
    # The last layers may discard their text, whose part of the adapter then stays as it was.
    assert sum(bool(value.any()) for value in ends) > len(ends) / 2


def test_generate_draws_with_the_adapter(
    family: Family, folder: Path, world: World, tmp_path: Path
) -> None:
    config = family.settings(folder, 32)
    policy = load_policy(config, CPU)
    with torch.no_grad():
        for parameter in policy.trainable_parameters().values():
            parameter.add_(0.1)
    save_adapter(tmp_path / "adapter", policy.trainable_parameters(), config.adapter)
    run = world.config(f"training.sampling.guidance_scale={family.guided}")

    (location,) = generate(
        GenerationSettings.of(run.model_copy(update={"policy": config})),
        ["a cat on a red mat"],
        adapter=str(tmp_path / "adapter"),
        images_per_prompt=1,
        seed=3,
        output=str(tmp_path / "images"),
    )

    expected = sample_images(
        policy,
        ["a cat on a red mat"],
        [3],
        num_inference_steps=run.training.sampling.num_inference_steps,
        guidance_scale=family.guided,
    )
    torch.testing.assert_close(decode_image(read_bytes(location)), expected[0])
