from functools import partial
from pathlib import Path

import pytest

from advgrpo.config import RunConfig, resolve
from advgrpo.config.discriminator import PretrainingConfig
from advgrpo.config.tasks import ReferenceImagesSettings, TrainingSettings
from advgrpo.data.prompts import SPLITS, read_run_prompts
from advgrpo.demo.servers import EmbeddedServers
from advgrpo.errors import ReferenceImageError
from advgrpo.pocket.captions import all_captions
from advgrpo.reference_images.opening import inspect_set, open_reference_images
from advgrpo.storage import list_files
from advgrpo.storage.archives import extract
from advgrpo.tasks.costs import read_generation_times
from advgrpo.tasks.reference_images import make_reference_images


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    texts = [caption.text for caption in all_captions()]
    (tmp_path / "train.txt").write_text("\n".join(texts[:6]))
    (tmp_path / "test.txt").write_text("\n".join(texts[6:9]))
    return resolve(
        "pocket",
        [f"prompts.train={tmp_path / 'train.txt'}", f"prompts.test={tmp_path / 'test.txt'}"],
    )


def _settings(config: RunConfig, existing: str | None = None) -> str:
    settings = ReferenceImagesSettings.of(config).model_dump(mode="json")
    settings["reference_images"]["existing"] = existing
    return ReferenceImagesSettings.model_validate(settings).model_dump_json()


def test_both_sets_are_generated_and_valid(config: RunConfig, tmp_path: Path) -> None:
    made = make_reference_images(_settings(config), workspace=str(tmp_path / "work"))
    assert inspect_set(made.train, config, "train").validated().digest
    assert inspect_set(made.test, config, "test").validated().digest


def test_a_repeated_task_generates_nothing(config: RunConfig, tmp_path: Path) -> None:
    made = make_reference_images(_settings(config), workspace=str(tmp_path / "work"))
    before = {p: p.stat().st_mtime_ns for p in Path(made.train).glob("*.png")}
    again = make_reference_images(_settings(config), workspace=str(tmp_path / "work"))
    assert again == made
    assert {p: p.stat().st_mtime_ns for p in Path(made.train).glob("*.png")} == before


def test_sets_in_an_object_store_are_a_few_objects(
    config: RunConfig,
    tmp_path: Path,
    stores: EmbeddedServers,  # noqa: ARG001 - must run
) -> None:
    workspace = f"s3://advgrpo/reference-images/{tmp_path.name}"
    made = make_reference_images(_settings(config), workspace=workspace)
    # Of each set: two archives (images and lists), a listing of each, and the time that it took;
    # which training prompts are drawn; and the task's heartbeat.
    assert len(list_files(workspace)) == 12
    assert len(list(extract(made.train).glob("*.png"))) == 12
    assert inspect_set(made.test, config, "test").validated().digest


@pytest.mark.usefixtures("warm_python")
def test_two_processes_generate_the_set_of_one(config: RunConfig, tmp_path: Path) -> None:
    alone = make_reference_images(_settings(config), workspace=str(tmp_path / "alone"))
    made = make_reference_images(
        _settings(config), workspace=str(tmp_path / "together"), processes=2
    )
    for split in SPLITS:
        digests = {
            inspect_set(getattr(each, split), config, split).validated().digest
            for each in (alone, made)
        }
        assert len(digests) == 1
    prompts = read_run_prompts(config.prompts)
    for workspace, processes in (("alone", 1), ("together", 2)):
        for spent in read_generation_times(config, prompts, str(tmp_path / workspace)):
            assert spent is not None
            assert spent.seconds > 0
            assert (spent.processes, spent.complete) == (processes, True)


def test_an_existing_set_is_used_and_missing_images_are_generated(
    config: RunConfig, tmp_path: Path
) -> None:
    first = make_reference_images(_settings(config), workspace=str(tmp_path / "first"))
    made = make_reference_images(
        _settings(config, existing=first.train), workspace=str(tmp_path / "second")
    )
    imported = open_reference_images(
        made.train,
        read_run_prompts(config.prompts),
        "train",
        images_per_prompt=2,
        resolution_pixels=32,
        seed=0,
        workspace=str(tmp_path / "second"),
    )
    assert imported.root == first.train
    assert imported.digest == inspect_set(first.train, config, "train").validated().digest
    assert not list(Path(made.train).glob("*.png"))
    assert len(list(Path(made.test).glob("*.png"))) == 12


def test_a_damaged_existing_set_is_refused(config: RunConfig, tmp_path: Path) -> None:
    first = make_reference_images(_settings(config), workspace=str(tmp_path / "first"))
    victim = next(iter(Path(first.train).glob("*.png")))
    victim.write_bytes(victim.read_bytes()[:50])
    with pytest.raises(ReferenceImageError, match=victim.name):
        make_reference_images(
            _settings(config, existing=first.train), workspace=str(tmp_path / "second")
        )


def test_another_prompt_file_is_another_set(config: RunConfig, tmp_path: Path) -> None:
    made = make_reference_images(_settings(config), workspace=str(tmp_path / "work"))
    file = tmp_path / "train.txt"
    file.write_text("\n".join(file.read_text().splitlines()[:-1]))
    again = make_reference_images(_settings(config), workspace=str(tmp_path / "work"))
    assert again.train != made.train
    assert again.test == made.test


def test_a_longer_run_adds_its_prompts_to_the_same_set(config: RunConfig, tmp_path: Path) -> None:
    workspace = str(tmp_path / "work")
    (tmp_path / "train.txt").write_text("\n".join(all_captions()[n].text for n in range(20, 60)))
    run, longer, other = (
        config.model_copy(
            update={
                "seed": seed,
                "reference_images": config.reference_images.model_copy(update={"seed": 7}),
                "discriminator": config.discriminator.model_copy(
                    update={"pretraining": PretrainingConfig(images=4)}
                ),
                "training": config.training.model_copy(update={"updates": updates}),
            }
        )
        for seed, updates in ((0, 1), (0, 2), (1, 2))
    )
    counts, digests, place = [], [], ""
    for each in (run, longer, other, run):
        settings = ReferenceImagesSettings.of(each).model_dump_json()
        made = make_reference_images(settings, workspace=workspace)
        assert place in {"", made.train}
        place = made.train
        counts.append(len(list(Path(made.train).glob("*.png"))) // 2)
        report = inspect_set(made.train, each, "train")
        digests.append(report.validated().digest)
        assert report.images == 2 * report.prompts <= 2 * counts[-1]
    assert counts[0] < counts[1] < counts[2] == counts[3] < 40
    assert digests[0] == digests[3]
    prompts, training = read_run_prompts(run.prompts), TrainingSettings.of(longer)
    grown = partial(
        open_reference_images,
        prompts=prompts,
        split="train",
        images_per_prompt=2,
        resolution_pixels=32,
        seed=0,
        draws=training.draws,
    )
    assert grown(place, workspace=workspace).files
    alone = str(tmp_path / "alone")
    short = make_reference_images(
        ReferenceImagesSettings.of(run).model_dump_json(), workspace=alone
    )
    with pytest.raises(ReferenceImageError, match="missing prompt") as caught:
        grown(short.train, workspace=alone)
    assert "generate it again" in caught.value.repair
