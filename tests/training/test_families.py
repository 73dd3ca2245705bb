"""Every family is trained by the real loop in bfloat16; tests/tasks has float32."""

from collections.abc import Callable
from pathlib import Path

import pytest

from advgrpo.data.prompts import read_prompts
from advgrpo.models.policies.embeddings import StoredEmbeddings
from advgrpo.models.policies.encoding import encode_prompts, unconditional_prompt
from advgrpo.training.loop import train
from advgrpo.training.state import TrainingState
from tests.models.policies.families import FAMILIES, Family
from tests.training.conftest import World

pytestmark = pytest.mark.usefixtures("loaded_once")


@pytest.fixture(scope="module", params=FAMILIES, ids=lambda family: family.name)
def family(request: pytest.FixtureRequest) -> Family:
    found: Family = request.param
    return found


@pytest.fixture(scope="module")
def folder(family: Family, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return family.save(tmp_path_factory.mktemp(family.name))


def test_an_update_in_bfloat16_trains_the_adapter_and_its_ratio_starts_at_one(
    family: Family,
    folder: Path,
    make_state: Callable[..., TrainingState],
    world: World,
    tmp_path: Path,
) -> None:
    config = family.settings(folder, 32, forward_dtype="bfloat16", gradient_checkpointing=True)
    texts = [unconditional_prompt(config), *read_prompts(str(world.prompts)).texts]
    stored = StoredEmbeddings(encode_prompts(config, texts, store=str(tmp_path)), texts)
    state = make_state(
        "training.updates=1",
        # Some parameters have no gradient, which DeepSpeed hides; tests/tasks trains with that.
        "training.engine=ddp",
        f"training.sampling.guidance_scale={family.guided}",
        policy=config,
        embeddings=stored,
    )

    train(state)

    ratio_error = "policy/ratio_error_before_step"
    assert [row[ratio_error] for row in state.history if ratio_error in row] == [0]
    ends = [v for k, v in state.policy.trainable_parameters().items() if ".lora_B." in k]
    # The last layers may discard their text, whose part of the adapter then stays as it was.
    assert sum(bool(value.any()) for value in ends) > len(ends) / 2
