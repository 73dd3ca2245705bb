"""Make reference images, or validate those that there are."""

import json
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from advgrpo.config import RunConfig
from advgrpo.config.reference_images import DiffusersSource as DiffusersSourceConfig
from advgrpo.config.reference_images import FolderSource, ReferenceImagesConfig
from advgrpo.config.tasks import ReferenceImagesSettings, digest, parse_json
from advgrpo.data.prompts import read_run_prompts
from advgrpo.pocket.source import PocketRenderer
from advgrpo.records import PromptSet, ReferenceImageSet
from advgrpo.reference_images import (
    generate_packed_reference_images,
    generate_reference_images,
)
from advgrpo.reference_images.image_set import (
    ReferenceImageReport,
    ReferenceImageSource,
    inspect_reference_images,
    validate_reference_images,
)
from advgrpo.reference_images.image_store import FolderShelf, PackedShelf
from advgrpo.reference_images.import_existing import existing_set, is_archived, readable, take_up
from advgrpo.reference_images.import_folder import folder_digest, import_folder, origin_of
from advgrpo.reference_images.shared_images import inspect_shared_images
from advgrpo.runtime.failures import record_failures
from advgrpo.runtime.nodes import nodes
from advgrpo.runtime.pipeline_tasks import REFERENCE_IMAGES
from advgrpo.runtime.process_group import ProcessGroup
from advgrpo.runtime.processes import run_in_processes
from advgrpo.runtime.results import ReferenceImageLocations
from advgrpo.runtime.task_context import tracked_task
from advgrpo.runtime.timing import Elapsed, read_elapsed, record_elapsed
from advgrpo.runtime.work_queue import WorkQueue, open_work_queue
from advgrpo.storage import cache_folder, is_local, join
from advgrpo.storage.archives import extract
from advgrpo.storage.fetch import local_folder
from advgrpo.telemetry.logging import machine_event

TASK = REFERENCE_IMAGES.name
_SETS = ("train", "test")

logger = logging.getLogger(__name__)


def make_reference_images(
    settings: str, *, workspace: str, processes: int = 1, parent_run_id: str = ""
) -> ReferenceImageLocations:
    """Draw reference images for training and test prompts, or validate an existing set.

    Repeated with the same settings it goes on where it stopped, or finds all done. Under torchrun
    every process calls it and draws its share, in a job every machine; the first one records.

    Args:
        settings: `ReferenceImagesSettings` as JSON text.
        workspace: Local path or `s3://` location under which images are kept.
        processes: Drawing processes to start, on all machines together; on GPUs, one each.
        parent_run_id: MLflow run to nest in; empty for a run of its own.

    Returns:
        Validated sets.

    Raises:
        ConfigError: If the settings are wrong.
        PromptFileError: If a prompt file cannot be used.
        ReferenceImageError: If an existing set is incomplete or damaged.
        StorageError: If images cannot be read or kept.
    """
    task = parse_json(ReferenceImagesSettings, settings, where="the settings")
    if int(os.environ.get("RANK", "0")):
        missing = json.loads(open_work_queue(TASK).broadcast(""))
        draw_sets(task, missing, workspace=workspace)
        return _locations(task, workspace)
    if not nodes().is_first:
        with record_failures(TASK):
            missing = _sets_to_draw(task)
            if missing:
                _draw_in_processes(task, missing, workspace, processes)
            return _locations(task, workspace)
    with tracked_task(TASK, parent_run_id, workspace) as run:
        _take_up_existing(task, workspace)
        missing = _sets_to_draw(task)
        open_work_queue(TASK).broadcast(json.dumps(missing))
        if missing and processes > 1:
            _draw_in_processes(task, missing, workspace, processes)
        else:
            draw_sets(task, missing, workspace=workspace)
        made = _locations(task, workspace)
        run.parameters({**task.model_dump(mode="json"), **made._asdict()})
        logger.info(
            "they are in %s", made.train, extra=machine_event("result_saved", place=made.train)
        )
        return made


def draw_sets(task: ReferenceImagesSettings, names: Sequence[str], *, workspace: str) -> None:
    """Draw sets, or this process's share of them.

    Args:
        task: The settings.
        names: Which of "train" and "test".
        workspace: Local path or `s3://` location under which images are kept.
    """
    if not names:
        return
    prompts, config = read_run_prompts(task.prompts), task.reference_images
    if isinstance(config.source, FolderSource):
        _import_sets(task, config.source, names, workspace)
        return
    source = _source(task)
    for name in names:
        location = _location(task, name, workspace)
        count = config.images_per_prompt if name == "train" else config.test_images_per_prompt
        wanted, workers = getattr(prompts, name), open_work_queue(location)
        with _time_noted(location, len(wanted) * count, workers):
            _draw_set(source, wanted, config, count, task.seed, location, workers)


def _import_sets(
    task: ReferenceImagesSettings, source: FolderSource, names: Sequence[str], workspace: str
) -> None:
    """Make sets of a folder's pictures; the first worker does, which takes less than drawing."""
    folder = local_folder(source.location)
    origin = origin_of(source, folder_digest(folder), task.reference_images.resolution_pixels)
    for name in names:
        location = _location(task, name, workspace)
        workers = open_work_queue(location)
        if workers.rank == 0:
            shelf = (
                FolderShelf(Path(location), origin)
                if is_local(location)
                else PackedShelf(location, origin)
            )
            import_folder(folder, source, origin, shelf, "test" if name == "test" else "train")
        workers.barrier("imported")


def elapsed_of_reference_images(config: RunConfig, workspace: str) -> list[Elapsed | None]:
    """Return the time that each reference image set took; None without a record."""
    if config.reference_images.serve_any_prompt:
        return [None, None]
    task = ReferenceImagesSettings.of(config)
    return [read_elapsed(_cost_file(_location(task, name, workspace))) for name in _SETS]


def _cost_file(location: str) -> str:
    return f"{location}-cost.json"


@contextmanager
def _time_noted(location: str, images: int, workers: WorkQueue) -> Iterator[None]:
    if workers.rank != 0:
        yield
        return
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    with record_elapsed(_cost_file(location), processes=processes, images=images, once=True):
        yield


def _draw_set(
    source: ReferenceImageSource,
    prompts: PromptSet,
    config: ReferenceImagesConfig,
    images_per_prompt: int,
    seed: int,
    location: str,
    workers: WorkQueue,
) -> None:
    if is_local(location):
        generate_reference_images(
            source,
            prompts,
            config,
            images_per_prompt=images_per_prompt,
            seed=seed,
            output=Path(location),
            queue=workers,
        )
    else:
        generate_packed_reference_images(
            source,
            prompts,
            config,
            images_per_prompt=images_per_prompt,
            seed=seed,
            location=location,
            queue=workers,
        )


def open_reference_images(
    location: str,
    prompts: PromptSet,
    *,
    images_per_prompt: int | None,
    resolution_pixels: int,
    seed: int,
    other_prompts: PromptSet,
    workspace: str,
) -> ReferenceImageSet:
    """Open a set that a task left in the workspace. See `validate_reference_images`.

    Without `images_per_prompt`, it is a set whose images serve any prompt.
    """
    if images_per_prompt is None:
        folder = extract(location)
        return inspect_shared_images(folder, resolution_pixels=resolution_pixels).validated()
    return validate_reference_images(
        extract(location),
        prompts,
        images_per_prompt,
        resolution_pixels,
        seed=seed,
        other_prompts=other_prompts,
        workspace=_checks(workspace),
    )


def inspect(location: str, config: RunConfig, *, test: bool) -> ReferenceImageReport:
    """Check every file of a set against a run's settings. See `inspect_reference_images`.

    Args:
        location: Folder or `s3://` location of the set.
        config: The run's settings.
        test: Whether it is for the test prompts, not for the training prompts.
    """
    prompts, wanted = read_run_prompts(config.prompts), config.reference_images
    if wanted.serve_any_prompt:
        pixels = wanted.resolution_pixels
        return inspect_shared_images(extract(location), resolution_pixels=pixels)
    return inspect_reference_images(
        readable(location),
        prompts.test if test else prompts.train,
        images_per_prompt=wanted.test_images_per_prompt if test else wanted.images_per_prompt,
        resolution_pixels=wanted.resolution_pixels,
        seed=config.seed,
        other_prompts=prompts.train if test else prompts.test,
        manifests=() if test and wanted.existing_test else wanted.existing_manifests,
        workspace=str(cache_folder()),
    )


def _sets_to_draw(task: ReferenceImagesSettings) -> list[str]:
    """Name the sets that there are no images for."""
    return [name for name in _SETS if existing_set(task, name) is None]


def _take_up_existing(task: ReferenceImagesSettings, workspace: str) -> None:
    for name in _SETS:
        if (existing := existing_set(task, name)) is not None:
            target = _location(task, name, workspace)
            take_up(task, name, existing, target=target, workspace=_checks(workspace))


def _locations(task: ReferenceImagesSettings, workspace: str) -> ReferenceImageLocations:
    return ReferenceImageLocations(*(_location(task, name, workspace) for name in _SETS))


def _checks(workspace: str) -> str:
    """Name where the workspace keeps what was found in the images of sets."""
    return join(workspace, "reference_images")


def _location(task: ReferenceImagesSettings, name: str, workspace: str) -> str:
    existing = existing_set(task, name)
    if existing is not None and is_archived(existing):
        return existing
    source = task.reference_images.source
    if isinstance(source, FolderSource):
        content = folder_digest(local_folder(source.location))
    else:
        prompts: PromptSet = getattr(read_run_prompts(task.prompts), name)
        content = prompts.digest
    return join(workspace, "reference_images", digest(task, content), name)


def _draw_in_processes(
    task: ReferenceImagesSettings, names: Sequence[str], workspace: str, processes: int
) -> None:
    arguments = {"task": task, "names": names, "workspace": workspace}
    run_in_processes(draw_sets, arguments, task=TASK, processes=processes)


def _source(task: ReferenceImagesSettings) -> ReferenceImageSource:
    config = task.reference_images
    if isinstance(config.source, DiffusersSourceConfig):
        # Loads diffusers, which takes seconds.
        from advgrpo.reference_images.diffusers_source import DiffusersSource  # noqa: PLC0415

        return DiffusersSource(
            config.source, resolution_pixels=config.resolution_pixels, device=ProcessGroup().device
        )
    return PocketRenderer()
