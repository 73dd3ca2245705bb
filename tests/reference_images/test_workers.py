from collections import Counter
from pathlib import Path

import pytest

from advgrpo.demo.servers import EmbeddedServers
from advgrpo.errors import RankFailedError, ReferenceImageError
from advgrpo.reference_images.generation import generate_reference_images
from advgrpo.reference_images.image_set import validate_reference_images
from advgrpo.reference_images.journal import JOURNAL_FILE
from advgrpo.runtime.processes import launch_processes
from advgrpo.storage import delete, list_files
from advgrpo.storage.archives import extract
from tests.reference_images.test_generation import PIXELS, NoiseSource, settings
from tests.reference_images.worker_program import PROMPTS

pytestmark = pytest.mark.usefixtures("warm_python")


def draw_together(location: str, notes: Path, *, processes: int = 3, fate: str = "lives") -> None:
    notes.mkdir(exist_ok=True)
    launch_processes(
        "tests.reference_images.worker_program",
        [location, str(notes), fate],
        processes=processes,
        logs=notes / "logs",
    )


def drawn_by(notes: Path) -> dict[str, list[str]]:
    return {path.stem: path.read_text().splitlines() for path in notes.glob("worker-*.txt")}


def times_drawn(*notes: Path) -> Counter[str]:
    return Counter(p for folder in notes for each in drawn_by(folder).values() for p in each)


def alone(folder: Path) -> str:
    generate_reference_images(
        NoiseSource(), PROMPTS, settings(), images_per_prompt=4, seed=0, location=folder
    )
    return digest_at(folder)


def digest_at(folder: Path) -> str:
    return validate_reference_images(folder, PROMPTS, 4, PIXELS, seed=0).digest


def test_three_workers_generate_the_set_of_one_and_no_image_twice(tmp_path: Path) -> None:
    draw_together(str(tmp_path / "set"), tmp_path / "notes")
    assert digest_at(tmp_path / "set") == alone(tmp_path / "alone")
    assert set(times_drawn(tmp_path / "notes").values()) == {4}
    assert not list((tmp_path / "set").glob("journal*"))


def test_a_slow_worker_delays_no_more_than_its_lease(tmp_path: Path) -> None:
    draw_together(str(tmp_path / "set"), tmp_path / "notes", processes=2, fate="slow")
    drawn = drawn_by(tmp_path / "notes")
    assert len(drawn["worker-0"]) > 5 * len(drawn.get("worker-1", ()))


def test_images_of_a_dead_worker_are_kept_and_its_lease_is_repeated(tmp_path: Path) -> None:
    with pytest.raises(RankFailedError):
        draw_together(str(tmp_path / "set"), tmp_path / "first", processes=2, fate="dies")
    assert (tmp_path / "set" / JOURNAL_FILE).is_file()
    # Another number of workers takes over.
    draw_together(str(tmp_path / "set"), tmp_path / "second", processes=3)
    assert digest_at(tmp_path / "set") == alone(tmp_path / "alone")
    times = times_drawn(tmp_path / "first", tmp_path / "second")
    assert set(times) == set(PROMPTS.texts)
    assert sum(times.values()) <= 48 + 2 * 2


def test_workers_of_an_object_store_leave_nothing_on_their_disk(
    tmp_path: Path,
    stores: EmbeddedServers,  # noqa: ARG001 - must run
) -> None:
    location = f"s3://advgrpo/team/{tmp_path.name}"
    draw_together(location, tmp_path / "notes", processes=2)
    assert not (tmp_path / "cache").exists()
    assert digest_at(extract(location)) == alone(tmp_path / "alone")
    draw_together(location, tmp_path / "again", processes=1)
    assert not drawn_by(tmp_path / "again")


def test_a_partially_written_archive_is_generated_again(
    tmp_path: Path,
    stores: EmbeddedServers,  # noqa: ARG001 - must run
) -> None:
    location = f"s3://advgrpo/half/{tmp_path.name}"

    def draw(source: NoiseSource, *, seed: int = 0) -> None:
        generate_reference_images(
            source, PROMPTS, settings(), images_per_prompt=4, seed=seed, location=location
        )

    with pytest.raises(KeyboardInterrupt):
        draw(NoiseSource(stop_after=40))
    # Two archives of 16 images are complete; one loses its list, as after an interruption.
    listings = [name for name in list_files(location) if name.endswith(".json")]
    assert len(listings) == 2
    delete(f"{location}/{listings[0]}")
    with pytest.raises(ReferenceImageError, match="seed was 0 and is 1"):
        draw(NoiseSource(), seed=1)
    source = NoiseSource()
    draw(source)
    assert len(source.drawn) == 48 - 16
    assert digest_at(extract(location)) == alone(tmp_path / "alone")
