import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from advgrpo.config import Weights
from advgrpo.config.tasks import GenerationSettings
from advgrpo.data.images import decode_image, encode_png
from advgrpo.demo.servers import EmbeddedServers
from advgrpo.errors import ConfigError, WeightsError
from advgrpo.models.policies import load_policy
from advgrpo.models.policies.adapter import save_adapter
from advgrpo.models.policies.base import PromptEmbeddings
from advgrpo.models.policies.sd3 import Sd3TextEncoders
from advgrpo.storage import file_sha256, list_files, read_bytes
from advgrpo.storage.weights_hash import weights_digest
from advgrpo.tasks import generate as module
from advgrpo.tasks.generate import generate
from advgrpo.testing import TinyModels

pytestmark = pytest.mark.usefixtures("loaded_once")

PROMPTS = ["a small red circle on a black background center", "a large blue ring"]


@pytest.fixture(scope="module")
def adapter(tiny: TinyModels, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter of another shape than the preset's."""
    folder = tmp_path_factory.mktemp("adapter")
    config = tiny.config("policy.adapter.rank=4", "policy.adapter.alpha=12").policy
    policy = load_policy(config, torch.device("cpu"))
    generator = torch.Generator().manual_seed(3)
    values = {
        name: 0.3 * torch.randn(value.shape, generator=generator)
        for name, value in policy.trainable_parameters().items()
    }
    save_adapter(folder, values, config.adapter)
    return folder


def _generate(
    tiny: TinyModels, output: Path | str, prompts: list[str] = PROMPTS, **changes: object
) -> list[str]:
    arguments = {"adapter": "", "images_per_prompt": 2, "seed": 3, "output": str(output)}
    config = GenerationSettings.of(tiny.config())
    return generate(config, prompts, **{**arguments, **changes})  # type: ignore[arg-type]


def contents(folder: Path | str) -> dict[str, bytes]:
    return {name: read_bytes(f"{folder}/{name}") for name in list_files(str(folder))}


def test_each_image_has_its_settings_as_metadata(tiny: TinyModels, tmp_path: Path) -> None:
    locations = _generate(tiny, tmp_path)
    assert [Path(location).name for location in locations] == [
        "000_0.png",
        "000_1.png",
        "001_0.png",
        "001_1.png",
    ]
    with Image.open(locations[3]) as picture:
        assert picture.info == {
            "prompt": PROMPTS[1],
            "seed": "4",
            "model": str(tiny.pipeline),
            "model_content": weights_digest(Weights(location=str(tiny.pipeline))),
            "adapter": "none",
            "num_inference_steps": "8",
            "guidance_scale": "1",
            "max_sequence_length": "10",
            "text_dtype": "float32",
            "decode_dtype": "float32",
            "resolution_pixels": "32",
            "forward_dtype": "float32",
        }
    assert set(contents(tmp_path)) == {*(Path(one).name for one in locations), "grid.png"}


def test_equal_prompt_and_seed_give_equal_files_among_any_others(
    tiny: TinyModels, tmp_path: Path
) -> None:
    two = _generate(tiny, tmp_path / "two")
    one = _generate(tiny, tmp_path / "one", PROMPTS[1:], images_per_prompt=1, seed=4)
    assert Path(two[3]).read_bytes() == Path(one[0]).read_bytes()
    assert Path(two[2]).read_bytes() != Path(one[0]).read_bytes()


def test_prompts_are_encoded_before_images_are_generated(
    tiny: TinyModels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = module.generate_share

    def refuse(_self: Sd3TextEncoders, prompt: str) -> PromptEmbeddings:
        raise WeightsError(f"{prompt!r} was not encoded before")

    def without_encoders(*arguments: object) -> None:
        monkeypatch.setattr(Sd3TextEncoders, "encode", refuse)
        draw(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "generate_share", without_encoders)
    assert len(_generate(tiny, tmp_path)) == 4


@pytest.mark.slow
@pytest.mark.usefixtures("warm_python")
def test_two_processes_generate_the_files_of_one(
    tiny: TinyModels, adapter: Path, tmp_path: Path
) -> None:
    for processes in (1, 2):
        _generate(
            tiny,
            tmp_path / str(processes),
            adapter=str(adapter),
            compare=True,
            processes=processes,
            batch_size=3,
        )
    one, two = contents(tmp_path / "1"), contents(tmp_path / "2")
    assert one == two
    assert len(one) == 9


def test_an_adapter_keeps_its_own_shape_and_is_identified_by_its_hash(
    tiny: TinyModels, adapter: Path, tmp_path: Path
) -> None:
    base = _generate(tiny, tmp_path / "base")
    trained = _generate(tiny, tmp_path / "trained", adapter=str(adapter), compare=True)
    with Image.open(trained[0]) as picture:
        assert picture.info["adapter_sha256"] == file_sha256(adapter / "adapter_model.safetensors")
    for before, after in zip(base, trained, strict=True):
        beside = Path(after).with_stem(f"{Path(after).stem}_base")
        assert beside.read_bytes() == Path(before).read_bytes()
        assert not torch.equal(*(decode_image(Path(one).read_bytes()) for one in (before, after)))
    names = set(contents(tmp_path / "trained"))
    assert "side_by_side.png" in names
    assert "grid.png" not in names


def test_an_interrupted_run_resumes_and_a_repeated_one_generates_nothing(
    tiny: TinyModels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[list[str]] = []
    whole = module.sample_images

    def counted(policy: object, prompts: list[str], *rest: object, **more: object) -> torch.Tensor:
        if len(drawn) == limit:
            raise KeyboardInterrupt
        drawn.append(prompts)
        return whole(policy, prompts, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "sample_images", counted)
    limit = 3
    with pytest.raises(KeyboardInterrupt):
        _generate(tiny, tmp_path)
    limit = 100
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert len(kept) == 3
    _generate(tiny, tmp_path)
    assert len(drawn) == 4
    assert {path: path.stat().st_mtime_ns for path in kept} == kept

    before = contents(tmp_path)
    _generate(tiny, tmp_path)
    _generate(tiny, tmp_path, [*PROMPTS, "a large green ring"])
    assert len(drawn) == 6
    after = contents(tmp_path)
    assert {name: after[name] for name in before if name != "grid.png"} == {
        name: data for name, data in before.items() if name != "grid.png"
    }
    assert after["grid.png"] != before["grid.png"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"prompts": PROMPTS[::-1]}, "prompt is"),
        ({"seed": 4}, "seed is '3', not '4'"),
        ({"adapter": "ADAPTER"}, "adapter_sha256 is None"),
    ],
)
def test_another_image_is_never_overwritten(
    tiny: TinyModels, adapter: Path, tmp_path: Path, changes: dict[str, object], said: str
) -> None:
    _generate(tiny, tmp_path)
    before = contents(tmp_path)
    if "adapter" in changes:
        changes = {"adapter": str(adapter)}
    with pytest.raises(ConfigError, match=r"--output: .*000_0\.png exists") as caught:
        _generate(tiny, tmp_path, **changes)  # type: ignore[arg-type]
    assert said in caught.value.message
    assert contents(tmp_path) == before


def test_other_text_settings_make_another_image(tiny: TinyModels, tmp_path: Path) -> None:
    _generate(tiny, tmp_path)
    arguments = {"adapter": "", "images_per_prompt": 2, "seed": 3, "output": str(tmp_path)}
    for setting in ("max_sequence_length=5", "text_dtype=bfloat16", "decode_dtype=bfloat16"):
        with pytest.raises(ConfigError, match=f"{setting.partition('=')[0]} is "):
            config = GenerationSettings.of(tiny.config(f"policy.{setting}"))
            generate(config, PROMPTS, **arguments)  # type: ignore[arg-type]


def test_replaced_weights_at_the_same_location_make_another_image(
    tiny: TinyModels, tmp_path: Path
) -> None:
    pipeline = shutil.copytree(tiny.pipeline, tmp_path / "pipeline")
    moved, output = replace(tiny, pipeline=pipeline), tmp_path / "images"
    _generate(moved, output, PROMPTS[:1])
    settings = pipeline / "scheduler" / "scheduler_config.json"
    settings.write_text(settings.read_text() + " ", encoding="utf-8")
    with pytest.raises(ConfigError, match="is another image: model_content is"):
        _generate(moved, output, PROMPTS[:1])


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("001_0.png", b"", "is truncated"),
        ("001_0.png", encode_png(torch.zeros(3, 32, 32)), "is another image"),
        ("grid.png", encode_png(torch.zeros(3, 32, 32)), "is not a sheet of advgrpo"),
        ("grid.png", b"text", "is not a PNG"),
    ],
)
def test_a_foreign_file_is_never_overwritten(
    tiny: TinyModels, tmp_path: Path, name: str, content: bytes, said: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=said):
        _generate(tiny, tmp_path)
    assert contents(tmp_path) == {name: content}


def test_images_in_an_object_store_are_reused(
    tiny: TinyModels,
    stores: EmbeddedServers,  # noqa: ARG001 - must run
    tmp_path: Path,
) -> None:
    location = f"s3://advgrpo/generated/{tmp_path.name}"
    _generate(tiny, location)
    _generate(tiny, tmp_path)
    assert contents(location) == contents(tmp_path)
    with pytest.raises(ConfigError, match="is another image"):
        _generate(tiny, location, seed=9)


def test_many_images_are_arranged_on_several_sheets(tiny: TinyModels, tmp_path: Path) -> None:
    _generate(tiny, tmp_path, ["a ring"], images_per_prompt=50, batch_size=50)
    assert {"grid.png", "grid_2.png"} <= set(contents(tmp_path))


def test_a_comparison_needs_an_adapter(tiny: TinyModels, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--compare"):
        _generate(tiny, tmp_path, compare=True)


def test_a_folder_without_an_adapter_is_refused(tiny: TinyModels, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="is not an adapter"):
        _generate(tiny, tmp_path / "images", adapter=str(tmp_path))


def test_an_adapter_of_another_base_model_is_refused(tiny: TinyModels, tmp_path: Path) -> None:
    foreign = tmp_path / "foreign"
    save_adapter(
        foreign,
        {f"blocks.7.to_q.lora_{half}.weight": torch.zeros(4, 4) for half in "AB"},
        tiny.config("policy.adapter.rank=4").policy.adapter,
    )
    with pytest.raises(WeightsError, match=r"another base model: .*blocks\.7\.to_q"):
        _generate(tiny, tmp_path / "images", adapter=str(foreign))


@pytest.mark.parametrize(
    ("adapter", "said"),
    [
        ("hub://owner/name/DINO", "is not pinned to a commit"),
        ("hub://owner/name/DINO@main", "is not pinned to a commit"),
        ("hub://owner", "is not pinned to a commit"),
        ("ftp://somewhere", "does not name an adapter"),
    ],
)
def test_an_incomplete_location_of_an_adapter_is_refused(
    tiny: TinyModels, tmp_path: Path, adapter: str, said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        _generate(tiny, tmp_path, adapter=adapter)


def test_a_registered_adapter_needs_a_server(tiny: TinyModels, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="MLFLOW_TRACKING_URI is not set"):
        _generate(tiny, tmp_path, adapter="models:/advgrpo@candidate")
