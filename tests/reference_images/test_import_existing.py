"""Import of existing sets in place, from a folder or an object store."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import torch

from advgrpo.config import RunConfig, resolve
from advgrpo.config.tasks import ReferenceImagesSettings
from advgrpo.data.image_loading import load_images
from advgrpo.data.images import encode_png
from advgrpo.data.prompts import read_run_prompts
from advgrpo.demo.servers import EmbeddedServers
from advgrpo.errors import ReferenceImageError, StorageNotFoundError
from advgrpo.records import ReferenceImageSet
from advgrpo.reference_images import check_record, checks
from advgrpo.reference_images.manifest import read_manifest, read_provenance
from advgrpo.reference_images.opening import open_reference_images
from advgrpo.runtime.results import ReferenceImageLocations
from advgrpo.storage import list_files, upload_folder, write_bytes
from advgrpo.tasks.reference_images import make_reference_images

TRAIN, TEST = ("a cat", "一只狗", "a cow"), ("a bird", "a fish")


@pytest.fixture
def prompt_files(tmp_path: Path) -> list[str]:
    (tmp_path / "train.txt").write_text("\n".join(TRAIN), "utf-8")
    (tmp_path / "test.txt").write_text("\n".join(TEST), "utf-8")
    return [f"prompts.{name}={tmp_path / name}.txt" for name in ("train", "test")]


@pytest.fixture
def released(tmp_path: Path) -> Path:
    """Images of two nodes, as the released script leaves them; one node's values are texts."""
    folder = tmp_path / "released"
    folder.mkdir()
    nodes: Sequence[Mapping[str, str | list[str]]] = (
        {"a cat": pictures(folder, 0, 2), "一只狗": pictures(folder, 1, 3)},
        {"a cow": pictures(folder, 2, 2), "a bird": pictures(folder, 3, 1)[0], "a fish": "4_0.png"},
    )
    pictures(folder, 4, 1)
    for number, manifest in enumerate(nodes):
        text = json.dumps(manifest, ensure_ascii=False, indent=2)
        (folder / f"prompt2img_node{number}.json").write_text(text, "utf-8")
    return folder


def pictures(folder: Path, prompt: int, count: int) -> list[str]:
    names = [f"{prompt}_{variation}.png" for variation in range(count)]
    for variation, name in enumerate(names):
        generator = torch.Generator().manual_seed(10 * prompt + variation)
        (folder / name).write_bytes(encode_png(torch.rand(3, 32, 32, generator=generator)))
    return names


def settings(prompt_files: list[str], existing: Path | str, *more: str) -> RunConfig:
    return resolve(
        "pocket",
        [
            *prompt_files,
            f"reference_images.existing={existing}",
            "reference_images.test_images_per_prompt=1",
            *more,
        ],
    )


def made(config: RunConfig, workspace: Path | str) -> ReferenceImageLocations:
    text = ReferenceImagesSettings.of(config).model_dump_json()
    return make_reference_images(text, workspace=str(workspace))


def opened(config: RunConfig, location: str, workspace: Path | str) -> ReferenceImageSet:
    return open_reference_images(
        location,
        read_run_prompts(config.prompts),
        "train",
        images_per_prompt=2,
        resolution_pixels=32,
        seed=0,
        workspace=str(workspace),
    )


def test_an_existing_folder_is_used_in_place_and_never_written_to(
    prompt_files: list[str], released: Path, tmp_path: Path
) -> None:
    before = {path: path.stat().st_mtime_ns for path in (released, *released.iterdir())}
    config = settings(prompt_files, released)
    sets = made(config, tmp_path / "work")

    images = opened(config, sets.train, tmp_path / "work")

    assert {path: path.stat().st_mtime_ns for path in (released, *released.iterdir())} == before
    assert images.root == str(released)
    assert images.files["a cat"] == ("0_0.png", "0_1.png")
    assert len(images.files["一只狗"]) == 2
    assert load_images(images, "一只狗", [1, 0]).shape == (2, 3, 32, 32)
    assert read_manifest(sets.test) == {"a bird": ("3_0.png",), "a fish": ("4_0.png",)}
    assert not list((tmp_path / "work").rglob("*.png"))
    provenance = read_provenance(sets.train)
    assert provenance is not None
    assert provenance.source["location"] == str(released)
    assert provenance.seed is None
    assert len(provenance.files) == 6


def test_an_object_store_is_read_in_place(
    prompt_files: list[str],
    released: Path,
    stores: EmbeddedServers,  # noqa: ARG001 - must run
    tmp_path: Path,
) -> None:
    location = f"s3://advgrpo/released/{tmp_path.name}"
    upload_folder(released, location)
    config = settings(prompt_files, location)
    workspace = f"s3://advgrpo/existing/{tmp_path.name}"
    sets = made(config, workspace)

    images = opened(config, sets.train, workspace)

    assert images.root == location
    assert load_images(images, "a cow", [0]).shape == (1, 3, 32, 32)
    assert not [name for name in list_files(workspace) if name.endswith(".png")]
    assert not list((tmp_path / "cache").rglob("*.png"))
    here = settings(prompt_files, released)
    assert opened(here, made(here, tmp_path / "work").train, tmp_path / "work").digest == (
        images.digest
    )
    write_bytes(f"{location}/0_0.png", encode_png(torch.zeros(3, 32, 32)))
    with pytest.raises(ReferenceImageError, match=r"0_0\.png has SHA-256"):
        opened(config, sets.train, workspace)


def test_a_manifest_may_be_stored_elsewhere_and_list_some_prompts_only(
    prompt_files: list[str], released: Path, tmp_path: Path
) -> None:
    merged = tmp_path / "prompt2img_merged.json"
    files = read_manifest(released)
    merged.write_text(json.dumps({p: list(files[p]) for p in TRAIN}), "utf-8")
    pictures(released, 7, 1)
    test_set = tmp_path / "tests"
    test_set.mkdir()
    names = {prompt: pictures(test_set, 20 + n, 1) for n, prompt in enumerate(TEST)}
    (test_set / "manifest.json").write_text(json.dumps(names), "utf-8")
    config = settings(
        prompt_files,
        released,
        f"reference_images.existing_manifests=[{merged}]",
        f"reference_images.existing_test={test_set}",
    )

    sets = made(config, tmp_path / "work")

    assert read_manifest(sets.test) == {"a bird": ("20_0.png",), "a fish": ("21_0.png",)}
    assert set(read_manifest(sets.train)) == set(TRAIN)


def test_a_killed_check_resumes_and_a_repeated_one_reads_nothing(
    prompt_files: list[str], released: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "_CHUNK", 2)
    monkeypatch.setattr(checks, "_CHUNKS_PER_RECORD", 1)
    read: list[str] = []
    whole = checks.read_bytes

    def counted(location: str) -> bytes:
        if len(read) == limit:
            raise KeyboardInterrupt
        read.append(Path(location).name)
        return whole(location)

    monkeypatch.setattr(checks, "read_bytes", counted)
    config, limit = settings(prompt_files, released), 4
    with pytest.raises(KeyboardInterrupt):
        made(config, tmp_path / "work")
    limit = 100
    first = sorted(read)  # the images of a chunk are read side by side
    sets = made(config, tmp_path / "work")
    assert first == ["0_0.png", "0_1.png", "1_0.png", "1_1.png"]
    assert sorted(read) == sorted(path.name for path in released.glob("*.png"))

    read.clear()
    assert made(config, tmp_path / "work") == sets
    opened(config, sets.train, tmp_path / "work")
    assert not read
    (released / "0_1.png").write_bytes((released / "0_1.png").read_bytes()[:-30])
    with pytest.raises(ReferenceImageError, match=r"0_1\.png is truncated"):
        opened(config, sets.train, tmp_path / "work")
    assert read == ["0_1.png"]


def test_a_truncated_record_is_tolerated(
    prompt_files: list[str], released: Path, tmp_path: Path
) -> None:
    config = settings(prompt_files, released)
    made(config, tmp_path / "work")
    for part in (tmp_path / "work").rglob("checked/*/*.jsonl"):
        part.write_bytes(part.read_bytes()[:-20])
    made(config, tmp_path / "work")


def test_images_that_changed_since_their_import_are_refused(
    prompt_files: list[str], released: Path, tmp_path: Path
) -> None:
    config = settings(prompt_files, released)
    made(config, tmp_path / "work")
    (released / "0_0.png").write_bytes(encode_png(torch.zeros(3, 32, 32)))
    with pytest.raises(ReferenceImageError, match="have changed since they were imported"):
        made(config, tmp_path / "work")


def test_a_set_for_other_prompts_is_refused_with_counts_examples_and_files(
    prompt_files: list[str], released: Path, tmp_path: Path
) -> None:
    (tmp_path / "train.txt").write_text("a cat\na cow\na horse\na goat", "utf-8")
    with pytest.raises(ReferenceImageError) as caught:
        made(settings(prompt_files, released), tmp_path / "work")
    said = caught.value.message
    assert f"2 of the 4 prompts of {tmp_path / 'train.txt'} are not in {released}" in said
    assert "for instance 'a horse', 'a goat'" in said
    assert "1 of the 5 prompts of" in said
    assert f"are not in {tmp_path / 'train.txt'} or {tmp_path / 'test.txt'}" in said
    assert "for instance '一只狗'" in said
    assert "prompts.train" in caught.value.repair


def test_links_that_lead_out_of_the_set_are_refused(
    prompt_files: list[str], released: Path, tmp_path: Path
) -> None:
    (tmp_path / "elsewhere").mkdir()
    for name in ("0_0.png", "2_0.png"):
        (released / name).rename(tmp_path / "elsewhere" / name)
    (released / "0_0.png").symlink_to(tmp_path / "elsewhere" / "0_0.png")
    (released / "2_0.png").symlink_to(released / "2_0.png")
    with pytest.raises(ReferenceImageError) as caught:
        made(settings(prompt_files, released), tmp_path / "work")
    assert "0_0.png is reached by a symbolic link that leads out" in caught.value.message
    assert "2_0.png is missing" in caught.value.message


def test_a_missing_set_is_named(prompt_files: list[str], tmp_path: Path) -> None:
    with pytest.raises(StorageNotFoundError, match="nowhere"):
        made(settings(prompt_files, tmp_path / "nowhere"), tmp_path / "work")


def test_the_record_of_a_cached_copy_is_stored_in_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []
    monkeypatch.setattr(check_record, "write_bytes", lambda place, _: written.append(place))
    listing = {"a.png": check_record.FileState(1, "1")}
    for root in (tmp_path / "cache" / "folders" / "x", tmp_path / "set"):
        found = {"a.png": check_record.ValidFile("0", 1, 1)}
        check_record.record_of(str(root), "s3://bucket/work").add(found, listing)
    assert written[0].startswith(str(tmp_path / "cache" / "checked"))
    assert written[1].startswith("s3://bucket/work/checked")
