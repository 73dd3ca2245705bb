from pathlib import Path

import pytest
import torch

from advgrpo.data.images import encode_png
from advgrpo.data.splits import split_prompts
from advgrpo.errors import ConfigError, ReferenceImageError
from advgrpo.records import ReferenceImageSet
from advgrpo.reference_images.manifest import write_manifest
from advgrpo.reference_images.shared_images import (
    ANY_PROMPT,
    assign_for_evaluation,
    assign_for_training,
    inspect_shared_images,
)

PROMPTS = [f"prompt {n}" for n in range(60)]


def shared(folder: Path, count: int) -> ReferenceImageSet:
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"{n}.png" for n in range(count)]
    for n, name in enumerate(names):
        image = torch.full((3, 4, 4), n / 255)
        (folder / name).write_bytes(encode_png(image))
    write_manifest(folder, {ANY_PROMPT: tuple(names)})
    return inspect_shared_images(folder, resolution_pixels=4).validated()


def dealt(images: ReferenceImageSet) -> tuple[set[str], list[tuple[str, ...]]]:
    """Files of the training prompts, and those of each held-out prompt that has some."""
    files = assign_for_training(images, PROMPTS, held_out_fraction=0.3).files
    split = split_prompts(PROMPTS, 0.3)
    training = {files[PROMPTS[n]] for n in split.training}
    assert len(training) == 1
    return set(training.pop()), [files[PROMPTS[n]] for n in split.held_out if PROMPTS[n] in files]


@pytest.mark.parametrize("count", [12, 30, 200])
def test_no_image_is_both_trained_on_and_held_out_and_none_is_used_twice(
    tmp_path: Path, count: int
) -> None:
    training, held_out = dealt(shared(tmp_path, count))
    measuring = [name for files in held_out for name in files]
    assert len(measuring) == len(set(measuring)) >= 2
    assert training
    assert not training & set(measuring)
    assert len({len(files) for files in held_out}) == 1


def test_whether_an_image_is_held_out_depends_on_its_content_alone(tmp_path: Path) -> None:
    few, more = shared(tmp_path / "few", 30), shared(tmp_path / "more", 90)
    training, _ = dealt(few)
    assert training <= dealt(more)[0]


def test_a_set_whose_images_belong_to_prompts_is_unchanged(tmp_path: Path) -> None:
    paired = ReferenceImageSet(str(tmp_path), {"a": ("a.png",)}, 4, "0" * 64)
    assert assign_for_training(paired, ["a"], held_out_fraction=0.1) is paired
    assert assign_for_evaluation(paired, ["a"]) is paired


def test_too_few_held_out_images_are_refused_with_the_setting(tmp_path: Path) -> None:
    with pytest.raises(ReferenceImageError, match=r"discriminator\.held_out_fraction=0\.01"):
        assign_for_training(shared(tmp_path, 3), PROMPTS, held_out_fraction=0.01)


def test_an_evaluation_uses_each_image_once(tmp_path: Path) -> None:
    files = assign_for_evaluation(shared(tmp_path, 50), PROMPTS[:12]).files
    used = [name for names in files.values() for name in names]
    assert sorted(used) == sorted(f"{n}.png" for n in range(50))
    assert {len(names) for names in files.values()} == {4, 5}


def test_an_evaluation_of_more_prompts_than_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="only 5 reference images") as refusal:
        assign_for_evaluation(shared(tmp_path, 5), PROMPTS[:12])
    assert "set evaluation.prompts to 5" in refusal.value.repair


def test_a_damaged_image_of_a_shared_set_is_named(tmp_path: Path) -> None:
    shared(tmp_path, 5)
    (tmp_path / "2.png").write_bytes(b"nothing")
    with pytest.raises(ReferenceImageError, match=r"2\.png is not a PNG"):
        inspect_shared_images(tmp_path, resolution_pixels=4).validated()
