import json
import logging
import resource
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from advgrpo.config.reference_images import FileFormat, PocketSource, ReferenceImagesConfig
from advgrpo.data.images import read_image
from advgrpo.errors import ReferenceImageError, StorageFullError
from advgrpo.records import PromptSet, ReferenceImageSet
from advgrpo.reference_images.generation import generate_reference_images, plan_images
from advgrpo.reference_images.image_set import validate_reference_images
from advgrpo.reference_images.journal import JOURNAL_FILE
from advgrpo.reference_images.manifest import read_manifest, read_provenance
from advgrpo.telemetry.progress import PROGRESS_FILE

PROMPTS = PromptSet(("a cat", "一只 dog", "a cow"), digest="")
PIXELS = 8


class NoiseSource:
    """Source of noise that depends on prompt and seed; records its prompts."""

    def __init__(
        self, *, style: str = "plain", stop_after: int = 10**9, pixels: int = PIXELS
    ) -> None:
        self.provenance: Mapping[str, str | int | float] = {
            "type": "noise",
            "style": style,
            "strength": 1.5,
        }
        self.drawn: list[str] = []
        self._stop_after = stop_after
        self._pixels = pixels

    def draw(self, prompts: Sequence[str], seeds: Sequence[int]) -> Tensor:
        if len(self.drawn) >= self._stop_after:
            raise KeyboardInterrupt
        self.drawn += prompts
        return torch.stack([self.image(*each) for each in zip(prompts, seeds, strict=True)])

    def image(self, prompt: str, seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed ^ sum(prompt.encode()))
        return torch.rand(3, self._pixels, self._pixels, generator=generator)


def settings(
    *, batch_size: int = 2, resolution_pixels: int = PIXELS, file_format: FileFormat = "png"
) -> ReferenceImagesConfig:
    return ReferenceImagesConfig(
        source=PocketSource(),
        batch_size=batch_size,
        resolution_pixels=resolution_pixels,
        file_format=file_format,
    )


def generate(
    source: NoiseSource,
    output: Path,
    *,
    prompts: PromptSet = PROMPTS,
    config: ReferenceImagesConfig | None = None,
    images_per_prompt: int = 2,
    seed: int = 0,
    all_prompts: PromptSet | None = None,
) -> ReferenceImageSet:
    config = config or settings()
    generate_reference_images(
        source,
        prompts,
        config,
        images_per_prompt=images_per_prompt,
        seed=seed,
        location=output,
        all_prompts=all_prompts,
    )
    pixels = config.resolution_pixels
    return validate_reference_images(
        output, prompts, images_per_prompt, pixels, seed=0, other_prompts=all_prompts
    )


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_generated_set_is_complete_and_valid(tmp_path: Path) -> None:
    source = NoiseSource()
    drawn = generate(source, tmp_path)
    assert source.drawn == [prompt for prompt in PROMPTS.texts for _ in range(2)]
    assert drawn == validate_reference_images(tmp_path, PROMPTS, 2, PIXELS, seed=0)
    assert read_manifest(tmp_path) == drawn.files
    provenance = read_provenance(tmp_path)
    assert provenance is not None
    assert provenance.source == {"type": "noise", "style": "plain", "strength": 1.5}
    assert len(provenance.files) == len(contents(tmp_path)) - 2 == 6


def test_a_file_holds_the_image_of_its_prompt_and_seed(tmp_path: Path) -> None:
    source = NoiseSource()
    drawn = generate(source, tmp_path)
    for planned in plan_images(PROMPTS, 2, seed=0):
        assert drawn.files[planned.prompt][planned.variation] == planned.name
        image = read_image(tmp_path / planned.name, PIXELS)
        expected = source.image(planned.prompt, planned.seed)
        assert torch.allclose(image, expected, atol=0.5 / 255 + 1e-6)


def test_webp_files_hold_the_pixels_that_png_files_hold(tmp_path: Path) -> None:
    png = generate(NoiseSource(), tmp_path / "png")
    webp = generate(NoiseSource(), tmp_path / "webp", config=settings(file_format="webp"))
    for prompt in PROMPTS.texts:
        for first, second in zip(png.files[prompt], webp.files[prompt], strict=True):
            assert second == first.replace(".png", ".webp")
            ours, theirs = (tmp_path / "webp" / second, tmp_path / "png" / first)
            assert torch.equal(read_image(ours, PIXELS), read_image(theirs, PIXELS))
    with pytest.raises(ReferenceImageError, match="6 images of other prompts"):
        generate(NoiseSource(), tmp_path / "webp")


def test_names_and_seeds_never_change_between_versions() -> None:
    planned = plan_images(PromptSet(("a cat",), digest=""), 2, seed=5)
    assert [(image.name, image.seed) for image in planned] == [
        ("51e4674156077982_0.png", 2002457673891417934),
        ("51e4674156077982_1.png", 8736952131133692154),
    ]


def test_batch_size_and_order_of_prompts_never_rebind_a_file(tmp_path: Path) -> None:
    first = generate(NoiseSource(), tmp_path / "first")
    for name, batch_size, texts in (("a", 1, PROMPTS.texts), ("b", 5, PROMPTS.texts[::-1])):
        other = generate(
            NoiseSource(),
            tmp_path / name,
            prompts=PromptSet(texts, digest=""),
            config=settings(batch_size=batch_size),
        )
        assert other.digest == first.digest
        assert other.files == first.files


def test_each_image_has_its_own_seed() -> None:
    seeds = {image.seed for run in range(3) for image in plan_images(PROMPTS, 4, seed=run)}
    assert len(seeds) == 3 * 4 * len(PROMPTS)


def test_an_interrupted_run_loses_the_current_batch_at_most(tmp_path: Path) -> None:
    whole = generate(NoiseSource(), tmp_path / "whole")
    folder = tmp_path / "half"
    with pytest.raises(KeyboardInterrupt):
        generate(NoiseSource(stop_after=4), folder)
    assert JOURNAL_FILE in contents(folder)
    with pytest.raises(ReferenceImageError, match=r"it has neither manifest\.json nor"):
        validate_reference_images(folder, PROMPTS, 2, PIXELS, seed=0)
    source = NoiseSource()
    assert generate(source, folder).digest == whole.digest
    assert source.drawn == ["a cow"] * 2
    assert contents(folder) == contents(tmp_path / "whole")


def test_a_killed_run_resumes(tmp_path: Path) -> None:
    folder = tmp_path / "killed"
    script = f"""
import sys, time
sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
from test_generation import NoiseSource, PROMPTS, generate

class Slow(NoiseSource):
    def draw(self, prompts, seeds):
        if len(self.drawn) >= 4:
            time.sleep(600)
        return super().draw(prompts, seeds)

generate(Slow(), Path({str(folder)!r}))
"""
    with subprocess.Popen([sys.executable, "-c", script]) as process:
        try:
            journal, deadline = folder / JOURNAL_FILE, time.monotonic() + 60
            while not journal.is_file() or journal.read_text().count("\n") < 5:
                assert time.monotonic() < deadline
                assert process.poll() is None
                time.sleep(0.05)
        finally:
            process.kill()
    source = NoiseSource()
    assert generate(source, folder).digest == generate(NoiseSource(), tmp_path / "whole").digest
    assert source.drawn == ["a cow"] * 2


def test_partial_files_of_a_killed_writer_are_removed(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        generate(NoiseSource(stop_after=4), tmp_path)
    (tmp_path / ".partial-a.png").write_bytes(b"half")
    journal = tmp_path / JOURNAL_FILE
    journal.write_text(journal.read_text()[:-10])
    source = NoiseSource()
    generate(source, tmp_path)
    assert source.drawn == ["一只 dog", "a cow", "a cow"]
    assert not [name for name in contents(tmp_path) if name.startswith(".")]


def test_damaged_files_are_generated_again_and_valid_ones_kept(tmp_path: Path) -> None:
    whole = generate(NoiseSource(), tmp_path)
    before = contents(tmp_path)
    (tmp_path / whole.files["a cat"][1]).write_bytes(b"damaged")
    (tmp_path / whole.files["a cow"][0]).unlink()
    source = NoiseSource()
    assert generate(source, tmp_path) == whole
    assert source.drawn == ["a cat", "a cow"]
    assert contents(tmp_path) == before


def test_a_complete_set_is_not_generated_again(tmp_path: Path) -> None:
    whole = generate(NoiseSource(), tmp_path)
    assert generate(NoiseSource(stop_after=0), tmp_path) == whole


def test_prompts_and_variations_can_be_added_to_a_set(tmp_path: Path) -> None:
    few = PromptSet(PROMPTS.texts[:2], digest="")
    generate(NoiseSource(), tmp_path / "grown", prompts=few, images_per_prompt=1)
    source = NoiseSource()
    grown = generate(source, tmp_path / "grown")
    assert len(source.drawn) == 4
    assert grown.digest == generate(NoiseSource(), tmp_path / "whole").digest


def test_runs_that_draw_other_prompts_share_one_set_which_only_grows(tmp_path: Path) -> None:
    first, second = (PromptSet(PROMPTS.texts[part], digest="") for part in (slice(2), slice(1, 3)))
    folder, source = tmp_path / "set", NoiseSource(stop_after=4)
    drawn = generate(source, folder, prompts=first, all_prompts=PROMPTS)
    assert source.drawn == ["a cat"] * 2 + ["一只 dog"] * 2
    with pytest.raises(KeyboardInterrupt):
        generate(
            NoiseSource(stop_after=1),
            folder,
            prompts=second,
            all_prompts=PROMPTS,
            config=settings(batch_size=1),
        )
    # The first run goes on meanwhile, with the same images.
    reopened = validate_reference_images(folder, first, 2, PIXELS, seed=0, other_prompts=PROMPTS)
    assert reopened.digest == drawn.digest
    with pytest.raises(ReferenceImageError, match="1 of the 2 prompts of the run are not in"):
        validate_reference_images(folder, second, 2, PIXELS, seed=0, other_prompts=PROMPTS)
    source = NoiseSource()
    grown = generate(source, folder, prompts=second, all_prompts=PROMPTS)
    assert source.drawn == ["a cow"]
    assert grown.digest == generate(NoiseSource(), tmp_path / "other", prompts=second).digest
    assert validate_reference_images(
        folder, first, 2, PIXELS, seed=0, other_prompts=PROMPTS
    ).digest == (drawn.digest)
    whole = generate(NoiseSource(stop_after=0), folder)
    assert whole.digest == generate(NoiseSource(), tmp_path / "whole").digest


@pytest.mark.parametrize("complete", [True, False])
def test_changed_settings_are_refused_by_name(tmp_path: Path, complete: bool) -> None:
    if complete:
        generate(NoiseSource(), tmp_path)
    else:
        with pytest.raises(KeyboardInterrupt):
            generate(NoiseSource(stop_after=2), tmp_path)
    before = contents(tmp_path)
    with pytest.raises(ReferenceImageError, match="other settings") as caught:
        generate(NoiseSource(), tmp_path, seed=1)
    assert caught.value.message.endswith("other settings: seed was 0 and is 1")
    assert caught.value.repair
    with pytest.raises(ReferenceImageError, match=r"source\.style was 'plain' and is 'crisp'"):
        generate(NoiseSource(style="crisp"), tmp_path)
    with pytest.raises(ReferenceImageError, match="resolution_pixels was 8 and is 16"):
        generate(NoiseSource(), tmp_path, config=settings(resolution_pixels=16))
    assert contents(tmp_path) == before


def test_images_that_the_settings_no_longer_name_are_refused(tmp_path: Path) -> None:
    generate(NoiseSource(), tmp_path)
    with pytest.raises(ReferenceImageError, match="3 images of other prompts"):
        generate(NoiseSource(), tmp_path, images_per_prompt=1)
    with pytest.raises(ReferenceImageError, match="2 images of other prompts"):
        generate(NoiseSource(), tmp_path, prompts=PromptSet(PROMPTS.texts[1:], digest=""))


def test_a_source_that_ignores_its_seeds_is_refused(tmp_path: Path) -> None:
    class Deaf(NoiseSource):
        def image(self, prompt: str, seed: int) -> Tensor:
            return super().image(prompt, 0 * seed)

    source = Deaf()
    with pytest.raises(
        ReferenceImageError, match=r"returned the same image for .*_0\.png and .*_1"
    ):
        generate(source, tmp_path)
    assert source.drawn == ["a cat"] * 2
    assert "manifest.json" not in contents(tmp_path)


def test_images_of_another_size_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ReferenceImageError, match=r"\(2, 3, 16, 16\) instead of \(2, 3, 8, 8\)"):
        generate(NoiseSource(pixels=16), tmp_path)


def test_images_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    class Overflowing(NoiseSource):
        def image(self, prompt: str, seed: int) -> Tensor:
            return super().image(prompt, seed) * (float("nan") if prompt == "a cow" else 1.0)

    with pytest.raises(ReferenceImageError, match="unusable image of 'a cow'"):
        generate(Overflowing(), tmp_path)
    source = NoiseSource()
    generate(source, tmp_path)
    assert source.drawn == ["a cow"] * 2


def test_a_full_disk_leaves_no_partial_file_and_the_next_run_resumes(tmp_path: Path) -> None:
    class Heavy(NoiseSource):
        """Only the images of the cow are larger than the limit."""

        def image(self, prompt: str, seed: int) -> Tensor:
            image = super().image(prompt, seed)
            return image if prompt == "a cow" else image[:, :1, :1].expand_as(image)

    config = settings(resolution_pixels=256)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(StorageFullError) as caught:
            generate(Heavy(pixels=256), tmp_path, config=config)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert str(tmp_path) in caught.value.message
    assert len(contents(tmp_path)) == 5
    source = Heavy(pixels=256)
    generate(source, tmp_path, config=config)
    assert source.drawn == ["a cow"] * 2


def test_a_foreign_journal_is_refused(tmp_path: Path) -> None:
    for text in ("", "{}\n", "nonsense"):
        (tmp_path / JOURNAL_FILE).write_text(text)
        with pytest.raises(ReferenceImageError, match=r"journal\.jsonl is damaged"):
            generate(NoiseSource(), tmp_path)


def test_progress_is_reported_with_the_remaining_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(PROGRESS_FILE, str(tmp_path / "progress"))
    with caplog.at_level(logging.INFO, "advgrpo"):
        with pytest.raises(KeyboardInterrupt):
            generate(NoiseSource(stop_after=2), tmp_path / "set")
        generate(NoiseSource(), tmp_path / "set")
    lines = map(json.loads, (tmp_path / "progress").read_text().splitlines())
    events = [event for event in lines if event.get("phase") == "reference images"]
    counts = [(event["done"], event["total"]) for event in events]
    assert counts == [(0, 6), (0, 6), (2, 6), (0, 6), (2, 6), (4, 6), (6, 6)]
    assert [event["seconds_left"] is None for event in events[-4:]] == [True, True, False, False]
    assert "reference images: 6/6 images" in caplog.text
