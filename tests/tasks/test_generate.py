from pathlib import Path

import pytest
import torch
from PIL import Image

from advgrpo.errors import ConfigError, WeightsError
from advgrpo.tasks.generate import generate
from advgrpo.testing import TinyModels, write_tiny_models

PROMPTS = ["a small red circle on a black background center", "a large blue ring"]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyModels:
    return write_tiny_models(tmp_path_factory.mktemp("models"))


def _generate(tiny: TinyModels, output: Path, **changes: object) -> list[str]:
    arguments = {"adapter": "", "images_per_prompt": 2, "seed": 3, "output": str(output)}
    return generate(tiny.config("evaluation.batch_size=3"), PROMPTS, **{**arguments, **changes})  # type: ignore[arg-type]


def levels(path: str) -> torch.Tensor:
    with Image.open(path) as picture:
        return torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8).int()


def test_each_image_says_what_it_is(tiny: TinyModels, tmp_path: Path) -> None:
    locations = _generate(tiny, tmp_path)
    assert [Path(location).name for location in locations] == [
        "000_0.png",
        "000_1.png",
        "001_0.png",
        "001_1.png",
    ]
    with Image.open(locations[3]) as picture:
        assert picture.info == {"prompt": PROMPTS[1], "seed": "4", "adapter": "none"}
    assert (tmp_path / "grid.png").is_file()


def test_an_image_depends_on_prompt_and_seed_alone(tiny: TinyModels, tmp_path: Path) -> None:
    two = _generate(tiny, tmp_path / "two")
    one = _generate(tiny, tmp_path / "one", images_per_prompt=1, seed=4)
    in_company, alone = (levels(path) for path in (two[1], one[0]))
    # A batch of another size rounds otherwise in the last bit.
    assert (in_company - alone).abs().max() <= 1
    assert (levels(two[0]) - alone).abs().max() > 1


def test_a_folder_without_an_adapter_is_refused(tiny: TinyModels, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="is not an adapter"):
        _generate(tiny, tmp_path / "images", adapter=str(tmp_path))


def test_a_registered_adapter_needs_a_server(tiny: TinyModels, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="none is named"):
        _generate(tiny, tmp_path, adapter="models:/advgrpo@candidate")
