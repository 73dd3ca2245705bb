import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import torch
from PIL import ExifTags, Image
from torch import Tensor

from advgrpo.data.image_loading import load_images
from advgrpo.data.images import encode_png, from_uint8, to_pil
from advgrpo.errors import ReferenceImageError, StorageNotFoundError
from advgrpo.records import PromptSet, ReferenceImageSet
from advgrpo.reference_images.image_set import (
    inspect_reference_images,
    validate_reference_images,
)
from advgrpo.reference_images.manifest import (
    MANIFEST_FILE,
    PROVENANCE_FILE,
    Provenance,
    read_provenance,
    write_provenance,
)

PIXELS = 8
CAT, DOG = "a cat", "一只 dog"
PROMPTS = PromptSet((CAT, DOG), digest="")
RELEASED_SHAPE = {
    CAT: ["node0_rank0_00000_0.png", "node0_rank0_00000_1.png"],
    DOG: ["node0_rank3_00000_0.png", "node0_rank3_00000_1.png"],
}


def picture(name: str, pixels: int = PIXELS) -> Tensor:
    """An image that no other name has."""
    generator = torch.Generator().manual_seed(
        int(hashlib.sha256(name.encode()).hexdigest()[:8], 16)
    )
    return from_uint8(
        torch.randint(256, (3, pixels, pixels), generator=generator, dtype=torch.uint8)
    )


def write_set(folder: Path, manifest: Mapping[str, str | Sequence[str]] = RELEASED_SHAPE) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / MANIFEST_FILE).write_text(json.dumps(manifest, ensure_ascii=False), encoding="utf-8")
    for value in manifest.values():
        for name in [value] if isinstance(value, str) else value:
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(encode_png(picture(name)))
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_set(tmp_path / "set")


def validate(
    folder: Path, prompts: PromptSet = PROMPTS, images_per_prompt: int = 2, *, seed: int = 0
) -> ReferenceImageSet:
    return validate_reference_images(folder, prompts, images_per_prompt, PIXELS, seed=seed)


def problems(folder: Path, images_per_prompt: int | None = 2) -> list[str]:
    report = inspect_reference_images(
        folder, PROMPTS, images_per_prompt=images_per_prompt, resolution_pixels=PIXELS
    )
    assert (report.reference_images is None) == bool(report.problems)
    return [f"{problem.kind}: {problem.text}" for problem in report.problems]


def test_a_set_in_the_format_of_adv_grpo_loads_unchanged(folder: Path) -> None:
    before = {path: path.read_bytes() for path in folder.iterdir()}
    reference_images = validate(folder)
    assert reference_images.root == str(folder)
    assert reference_images.files == {prompt: tuple(f) for prompt, f in RELEASED_SHAPE.items()}
    assert reference_images.resolution_pixels == PIXELS
    assert reference_images.provenance == {}
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_images_are_loaded_by_prompt_and_variation(folder: Path) -> None:
    images = load_images(validate(folder), DOG, [1, 0])
    expected = [picture(name) for name in reversed(RELEASED_SHAPE[DOG])]
    assert torch.equal(images, torch.stack(expected))


def test_a_manifest_may_name_a_single_file_and_files_in_folders(tmp_path: Path) -> None:
    folder = write_set(tmp_path / "set", {CAT: "cat.png", DOG: ["dogs/0.png"]})
    assert validate(folder, images_per_prompt=1).files == {
        CAT: ("cat.png",),
        DOG: ("dogs/0.png",),
    }


def test_a_missing_prompt_or_variation_is_not_replaced(folder: Path) -> None:
    reference_images = validate(folder)
    for prompt, variation in (("a cow", 0), (CAT, 2), (CAT, -1)):
        with pytest.raises(ReferenceImageError, match="are requested"):
            load_images(reference_images, prompt, [variation])


def test_a_file_damaged_after_validation_is_not_replaced(folder: Path) -> None:
    reference_images = validate(folder)
    path = folder / RELEASED_SHAPE[CAT][0]
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ReferenceImageError, match=path.name):
        load_images(reference_images, CAT, [0])
    path.unlink()
    with pytest.raises(StorageNotFoundError, match=path.name):
        load_images(reference_images, CAT, [0])


def test_the_digest_depends_on_prompts_names_and_contents_only(tmp_path: Path) -> None:
    def digest(name: str, manifest: Mapping[str, str | Sequence[str]]) -> str:
        return validate(write_set(tmp_path / name, manifest)).digest

    first = digest("first", RELEASED_SHAPE)
    assert digest("elsewhere", dict(reversed(RELEASED_SHAPE.items()))) == first
    assert validate(tmp_path / "first", PromptSet((DOG, CAT), digest="")).digest == first
    swapped = {CAT: RELEASED_SHAPE[DOG], DOG: RELEASED_SHAPE[CAT]}
    renamed = {CAT: ["a.png", "b.png"], DOG: RELEASED_SHAPE[DOG]}
    others = {digest("swapped", swapped), digest("renamed", renamed)}
    redrawn = write_set(tmp_path / "redrawn")
    (redrawn / RELEASED_SHAPE[CAT][0]).write_bytes(encode_png(picture("another")))
    assert len(others | {validate(redrawn).digest, first}) == 4


def test_a_seed_chooses_among_surplus_images(tmp_path: Path) -> None:
    names = {prompt: [f"{i}_{v}.png" for v in range(6)] for i, prompt in enumerate((CAT, DOG))}
    folder = write_set(tmp_path / "set", names)
    chosen = validate(folder, images_per_prompt=3)
    assert all(len(files) == 3 for files in chosen.files.values())
    assert all(list(files) == sorted(files) for files in chosen.files.values())
    assert validate(folder, images_per_prompt=3) == chosen
    assert validate(folder, PromptSet((DOG, CAT), digest=""), 3).files == chosen.files
    choices = {validate(folder, images_per_prompt=3, seed=seed).files[CAT] for seed in range(20)}
    assert len(choices) > 5
    assert {name for files in choices for name in files} == set(names[CAT])


def test_too_few_images_per_prompt_are_refused(folder: Path) -> None:
    assert problems(folder, 3) == [
        f"prompt without enough images: {prompt!r} has 2 of 3 reference images"
        for prompt in (CAT, DOG)
    ]


def test_prompts_of_the_set_must_be_known(tmp_path: Path) -> None:
    folder = write_set(tmp_path / "set", {**RELEASED_SHAPE, "a cow": ["cow.png"]})
    (problem,) = problems(folder)
    assert problem == (
        f"unknown prompt: 1 of the 3 prompts of {folder / MANIFEST_FILE} are not in the prompts "
        "of the run, for instance 'a cow'"
    )
    cow = PromptSet(("a cow",), digest="")
    allowed = validate_reference_images(folder, PROMPTS, 2, PIXELS, seed=0, other_prompts=cow)
    assert allowed.files.keys() == {CAT, DOG}


def test_all_kinds_of_problems_are_reported_at_once(tmp_path: Path) -> None:
    manifest = {
        CAT: ["good.png", "truncated.png", "missing.png", "wide.png"],
        DOG: ["copy.png", "shared.png", "text.png"],
        "a cow": ["shared.png", "cow.png"],
    }
    folder = write_set(tmp_path / "set", manifest)
    (folder / "truncated.png").write_bytes((folder / "truncated.png").read_bytes()[:100])
    (folder / "missing.png").unlink()
    (folder / "wide.png").write_bytes(encode_png(picture("wide")[:, :4]))
    (folder / "copy.png").write_bytes((folder / "good.png").read_bytes())
    (folder / "text.png").write_text("no image")
    (folder / "more").mkdir()
    (folder / "more" / "Extra.PNG").write_bytes(encode_png(picture("extra")))
    (folder / "README.md").write_text("not an image, allowed here")
    (folder / ".partial-good.png").write_text("left by a writer that was killed")
    with pytest.raises(ReferenceImageError) as caught:
        validate(folder, images_per_prompt=4)
    assert caught.value.repair
    first, *listed = caught.value.message.splitlines()
    assert first == (
        f"reference images in {folder} cannot be used: 9 problems (unknown prompt: 1, "
        "prompt without enough images: 1, file listed twice: 1, damaged file: 2, missing file: 1, "
        "file of another size: 1, repeated image: 1, extra file: 1)"
    )
    assert listed == [
        (
            f"  - 1 of the 3 prompts of {folder / MANIFEST_FILE} are not in the prompts of the "
            "run, for instance 'a cow'"
        ),
        f"  - {DOG!r} has 3 of 4 reference images",
        f"  - shared.png is listed 2 times, for {DOG!r} and 'a cow'",
        "  - truncated.png is truncated",
        "  - missing.png is missing",
        "  - wide.png is 8 x 4 pixels, not 8 x 8",
        "  - text.png is not a PNG, JPEG, WEBP file, or its start is damaged",
        "  - good.png, copy.png hold the same image",
        "  - more/Extra.PNG belongs to no prompt of manifest.json",
    ]


def test_a_long_list_of_problems_is_cut_and_counted(tmp_path: Path) -> None:
    folder = write_set(tmp_path / "set", {CAT: [f"{i}.png" for i in range(20)], DOG: "dog.png"})
    for path in folder.glob("?*.png"):
        path.unlink()
    with pytest.raises(ReferenceImageError, match=r"missing file: 21\)") as caught:
        validate(folder, images_per_prompt=1)
    assert caught.value.message.count("\n  - ") == 12
    assert caught.value.message.endswith("and 9 more")


def test_contents_are_compared_with_the_provenance(folder: Path) -> None:
    names = [name for files in RELEASED_SHAPE.values() for name in files]
    hashes = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}
    provenance = Provenance(
        source={"type": "fake"}, seed=3, resolution_pixels=8, advgrpo_version="1", files=hashes
    )
    write_provenance(folder, provenance)
    assert validate(folder).provenance == {
        "source": {"type": "fake"},
        "seed": 3,
        "resolution_pixels": 8,
        "advgrpo_version": "1",
    }
    (folder / names[2]).write_bytes(encode_png(picture("another")))
    assert [text.partition(" has SHA-256")[0] for text in problems(folder)] == [
        f"file of another content: {names[2]}"
    ]
    write_provenance(folder, provenance.model_copy(update={"files": {names[2]: hashes[names[2]]}}))
    assert len(problems(folder)) == 4


@pytest.mark.parametrize("value", ["Infinity", "-Infinity", "NaN"])
def test_a_provenance_with_non_finite_numbers_is_refused(tmp_path: Path, value: str) -> None:
    given = {"source": {"cfg": 1}, "seed": 3, "resolution_pixels": 8, "advgrpo_version": "1"}
    text = json.dumps({**given, "files": {}})
    (tmp_path / PROVENANCE_FILE).write_text(text)
    assert read_provenance(tmp_path) is not None
    (tmp_path / PROVENANCE_FILE).write_text(text.replace('"cfg": 1', f'"cfg": {value}'))
    with pytest.raises(ReferenceImageError, match=r"provenance\.json is damaged"):
        read_provenance(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        ('{"a": "\xff"}', "is not JSON in UTF-8"),
        ('["a.png"]', "not an object of prompts"),
        ("7", "not an object of prompts"),
        ('{"a cat": {"0": "a.png"}}', "the value of 'a cat' is not a list of file names"),
        ('{"a cat": [7]}', "the value of 'a cat' is not a list of file names"),
        ('{"a cat": "a.png", "a cat": "b.png"}', "the key 'a cat' occurs twice"),
        ('{"a": "a.png",\n"b": "b.png",\n"a": "c.png"}', "'a' occurs twice, in lines 1 and 3"),
        ('{"a cat": "../a.png"}', "'../a.png', of 'a cat', is not a name inside the folder"),
        ('{"a cat": ["/etc/a.png"]}', "'/etc/a.png', of 'a cat', is not a name inside the folder"),
        ('{"a cat": [""]}', "'', of 'a cat', is not a name inside the folder"),
    ],
)
def test_a_damaged_manifest_is_refused(folder: Path, text: str, message: str) -> None:
    (folder / MANIFEST_FILE).write_bytes(text.encode("latin-1"))
    (problem,) = problems(folder)
    assert message in problem
    assert str(folder / MANIFEST_FILE) in problem


def test_a_folder_without_manifest_is_refused(tmp_path: Path) -> None:
    assert "it has neither manifest.json nor" in problems(tmp_path)[0]
    with pytest.raises(ReferenceImageError, match=r"it has neither manifest\.json nor"):
        validate(tmp_path / "nowhere")


def test_the_repair_of_a_folder_with_captions_is_a_manifest(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encode_png(picture("a")))
    (tmp_path / "a.txt").write_text("a cat")
    with pytest.raises(ReferenceImageError) as refusal:
        inspect_reference_images(tmp_path, PROMPTS).validated()
    assert 'write manifest.json as {"<prompt>": ["<file name>", ...]}' in refusal.value.repair


def test_a_damaged_provenance_is_refused(folder: Path) -> None:
    (folder / PROVENANCE_FILE).write_text('{"seed": 0}')
    assert "provenance.json is damaged" in problems(folder)[0]


def test_a_report_summarizes_an_inspection(folder: Path) -> None:
    report = inspect_reference_images(folder, PROMPTS)
    assert report.reference_images is not None
    assert str(report).splitlines() == [
        f"reference images in {folder}: 4 images for 2 prompts, 8 x 8 pixels, without provenance",
        f"digest {report.reference_images.digest}",
        "no problems",
    ]
    odd = RELEASED_SHAPE[DOG][1]
    (folder / odd).write_bytes(encode_png(picture(odd, 16)))
    assert str(inspect_reference_images(folder, PROMPTS)).splitlines() == [
        f"reference images in {folder}: 4 images for 2 prompts",
        "1 problem (file of another size: 1)",
        f"  - {odd} is 16 x 16 pixels, not 8 x 8",
    ]


def test_a_report_tells_which_images_are_not_used_as_they_are_stored(
    folder: Path, tmp_path: Path
) -> None:
    name = RELEASED_SHAPE[DOG][0]
    stored, exif, data = to_pil(picture(name)), Image.Exif(), io.BytesIO()
    exif[ExifTags.Base.Orientation] = 3
    stored.save(data, "PNG", exif=exif)
    (folder / name).write_bytes(data.getvalue())
    # The second inspection reads the record of the first.
    for _ in range(2):
        report = inspect_reference_images(folder, PROMPTS, workspace=str(tmp_path / "checked"))
        line = f"1 images are turned as the EXIF orientation says, for instance {name}"
        assert str(report).splitlines()[2:] == [line, "no problems"]
    (image,) = load_images(report.validated(), DOG, [0])
    assert torch.equal(image, picture(name).rot90(2, (1, 2)))
