"""Learning a style from a folder of pictures that belong to no prompt, from end to end."""

from pathlib import Path

import pytest
import torch

from advgrpo.config import RunConfig, resolve
from advgrpo.config.tasks import (
    PretrainingSettings,
    ReferenceImagesSettings,
    TrainingSettings,
)
from advgrpo.data.images import encode_png
from advgrpo.data.prompts import SPLITS
from advgrpo.demo.servers import EmbeddedServers
from advgrpo.errors import ReferenceImageError
from advgrpo.pocket.captions import all_captions
from advgrpo.pocket.pictures import render
from advgrpo.reference_images.opening import inspect_set
from advgrpo.runtime.results import read_history
from advgrpo.storage import upload_folder
from advgrpo.tasks.evaluate import evaluate
from advgrpo.tasks.pretrain_reward import pretrain_reward
from advgrpo.tasks.reference_images import make_reference_images
from advgrpo.tasks.train import train

PROMPTS = Path(__file__).parents[2] / "advgrpo" / "pocket" / "prompts"
RED = torch.tensor([1.0, 0.35, 0.35]).view(3, 1, 1)


@pytest.fixture
def style(tmp_path: Path) -> Path:
    """Red pictures of captions that are none of the run's prompts."""
    folder = tmp_path / "red"
    folder.mkdir()
    captions = all_captions()[5:2000:12]
    for number, image in enumerate(render(captions, 1.0, list(range(len(captions))))):
        (folder / f"{number}.png").write_bytes(encode_png(image * RED))
    return folder


@pytest.fixture
def config(style: Path, tmp_path: Path) -> RunConfig:
    for name, lines in (("train", slice(0, 640, 4)), ("test", slice(0, 320, 10))):
        texts = (PROMPTS / f"{name}.txt").read_text("utf-8").splitlines()[lines]
        (tmp_path / f"{name}.txt").write_text("\n".join(texts), "utf-8")
    return resolve(
        "pocket",
        [
            *(f"prompts.{name}={tmp_path / name}.txt" for name in ("train", "test")),
            f"reference_images.source={{type: folder, location: {style}, fit: exact}}",
            "discriminator.prompt_conditioning=null",
            "discriminator.held_out_fraction=0.25",
            "discriminator.pretraining={images: 64, held_out_images: 64, steps: 32}",
            "training.reward={terms: [{type: discriminator}]}",
            # Steps that a few updates are enough to tell the direction of.
            "training.updates=6",
            "training.rollout.prompts_per_update=4",
            "training.optimizer={learning_rate: 0.003}",
            "policy.adapter.ema_decay=0.3",
            (
                "training.monitoring={held_out_every_updates: 3, held_out_prompts: 32, "
                "grid_images: 0, select_adapter: last}"
            ),
            "evaluation.prompts=12",
            "evaluation.bootstrap_samples=20",
        ],
    )


@pytest.mark.slow
@pytest.mark.usefixtures("warm_python")
def test_training_approaches_unseen_pictures_of_a_folder(config: RunConfig, tmp_path: Path) -> None:
    workspace = str(tmp_path / "work")
    images = make_reference_images(
        ReferenceImagesSettings.of(config).model_dump_json(), workspace=workspace
    )
    pretrained = pretrain_reward(
        PretrainingSettings.of(config).model_dump_json(),
        reference_images=images.train,
        workspace=workspace,
    )
    assert pretrained.metrics["discriminator/held_out_accuracy"] > 0.9
    trained = train(
        TrainingSettings.of(config).model_dump_json(),
        reference_images=images.train,
        discriminator=pretrained.location,
        workspace=workspace,
        processes=1,
    )
    history = read_history(Path(trained.location))
    held_out = [row["held_out/distance"] for row in history if "held_out/distance" in row]
    evaluated = evaluate(
        config.model_dump_json(),
        trained=trained.location,
        discriminator=pretrained.location,
        reference_images=images.test,
        workspace=workspace,
    )
    # Seen: 96.7, 91.9, 89.6; on pictures for testing, 0.907 of the distance of the base.
    assert held_out == sorted(held_out, reverse=True)
    assert held_out[-1] < 0.96 * held_out[0]
    assert evaluated.metrics["distance_trained"] < 0.96 * evaluated.metrics["distance_base"]
    assert evaluated.metrics["alignment_trained"] > 0.9


def test_imported_pictures_are_valid_sets_and_a_new_picture_makes_new_ones(
    config: RunConfig, style: Path, tmp_path: Path
) -> None:
    settings = ReferenceImagesSettings.of(config).model_dump_json()
    made = make_reference_images(settings, workspace=str(tmp_path / "work"))
    for split in SPLITS:
        images = inspect_set(getattr(made, split), config, split).validated()
        source = images.provenance["source"]
        assert isinstance(source, dict)
        assert source["fit"] == "exact"
    assert make_reference_images(settings, workspace=str(tmp_path / "work")) == made
    image = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(0))
    (style / "more.png").write_bytes(encode_png(image))
    again = make_reference_images(settings, workspace=str(tmp_path / "work"))
    assert again.train != made.train


def test_imports_to_an_object_store_and_to_a_folder_are_equal(
    config: RunConfig,
    style: Path,
    tmp_path: Path,
    stores: EmbeddedServers,  # noqa: ARG001 - must run
) -> None:
    location = f"s3://advgrpo/style/{tmp_path.name}"
    upload_folder(style, location)
    away = resolve(config.to_yaml(), [f"reference_images.source.location={location}"])
    made = [
        make_reference_images(ReferenceImagesSettings.of(each).model_dump_json(), workspace=where)
        for each, where in ((config, str(tmp_path / "work")), (away, f"{location}-work"))
    ]
    for split in SPLITS:
        here, there = (inspect_set(getattr(one, split), config, split).validated() for one in made)
        assert here.digest == there.digest


def test_an_unusable_picture_is_refused_at_once(
    config: RunConfig, style: Path, tmp_path: Path
) -> None:
    (style / "large.png").write_bytes(encode_png(torch.zeros(3, 40, 40)))
    settings = ReferenceImagesSettings.of(config).model_dump_json()
    with pytest.raises(ReferenceImageError, match=r"large\.png is 40 x 40 pixels"):
        make_reference_images(settings, workspace=str(tmp_path / "work"))
    cropping = resolve(config.to_yaml(), ["reference_images.source.fit=crop"])
    settings = ReferenceImagesSettings.of(cropping).model_dump_json()
    assert make_reference_images(settings, workspace=str(tmp_path / "work")).train
