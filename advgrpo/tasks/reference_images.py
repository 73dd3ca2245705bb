"""The task reference-images: generated, imported or validated reference image sets."""

import json
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from advgrpo.config.reference_images import DiffusersSource as DiffusersSourceConfig
from advgrpo.config.reference_images import FolderSource
from advgrpo.config.tasks import ReferenceImagesSettings, parse_json
from advgrpo.data.prompts import read_run_prompts
from advgrpo.errors import ConfigError
from advgrpo.pocket.source import PocketRenderer
from advgrpo.reference_images.generation import generate_reference_images
from advgrpo.reference_images.import_existing import import_existing
from advgrpo.reference_images.import_folder import import_folder, origin_of
from advgrpo.reference_images.request import RequestedSet, cost_file, requested_sets
from advgrpo.reference_images.source import ReferenceImageSource
from advgrpo.runtime.failures import record_failures
from advgrpo.runtime.nodes import nodes
from advgrpo.runtime.pipeline_tasks import REFERENCE_IMAGES
from advgrpo.runtime.process_group import ProcessGroup
from advgrpo.runtime.processes import run_in_processes
from advgrpo.runtime.results import ReferenceImageLocations
from advgrpo.runtime.task_context import track_task
from advgrpo.runtime.timing import record_elapsed
from advgrpo.runtime.work_queue import WorkQueue, open_work_queue
from advgrpo.storage.fetch import local_folder
from advgrpo.telemetry.logging import machine_event

TASK = REFERENCE_IMAGES.name

logger = logging.getLogger(__name__)


def make_reference_images(
    settings: str, *, workspace: str, processes: int = 1, parent_run_id: str = ""
) -> ReferenceImageLocations:
    """Generate reference images for the prompts that a run draws, or import existing ones.

    A repeated call with the same settings resumes where the last one stopped, and one whose run
    draws more prompts, for instance in more updates, adds their images to the same set. Under
    torchrun, all processes call this function and generate their share; in a job, all machines do.
    The first one records the task.

    Args:
        settings: `ReferenceImagesSettings` as JSON text.
        workspace: Local path or `s3://` location for the images.
        processes: Processes to start on all machines together; with GPUs, one each.
        parent_run_id: MLflow run to nest in; empty for a run of its own.

    Returns:
        Locations of the validated sets.

    Raises:
        ConfigError: If the settings are wrong.
        PromptFileError: If a prompt file cannot be used.
        ReferenceImageError: If an existing set is incomplete or damaged.
        StorageError: If images cannot be read or written.
    """
    if int(os.environ.get("RANK", "0")):
        # Every rank reads the request itself; only which sets are missing is sent.
        sets = _read_request(settings)
        # Rank 0 decides for all: it may import an existing set first.
        missing = json.loads(open_work_queue(TASK).broadcast(""))
        generate_sets([each for each in sets if each.split in missing], workspace)
        return _locations(sets, workspace)
    if not nodes().is_first:
        with record_failures(TASK):
            sets = _read_request(settings)
            missing_sets = [each for each in sets if each.existing is None]
            if missing_sets:
                _generate_in_processes(missing_sets, workspace, processes)
            return _locations(sets, workspace)
    with track_task(TASK, parent_run_id, workspace) as run:
        sets = _read_request(settings)
        for each in sets:
            if each.existing is not None:
                import_existing(each, each.existing, workspace)
        missing_sets = [each for each in sets if each.existing is None]
        # Also if no set is missing: the other ranks wait for the list.
        open_work_queue(TASK).broadcast(json.dumps([each.split for each in missing_sets]))
        if missing_sets and processes > 1:
            _generate_in_processes(missing_sets, workspace, processes)
        else:
            generate_sets(missing_sets, workspace)
        locations = _locations(sets, workspace)
        run.parameters({**sets[0].task.model_dump(mode="json"), **locations._asdict()})
        place = locations.train
        logger.info("reference images: %s", place, extra=machine_event("result_saved", place=place))
        return locations


def _read_request(settings: str) -> list[RequestedSet]:
    task = parse_json(ReferenceImagesSettings, settings, where="the settings")
    return requested_sets(task, read_run_prompts(task.prompts))


def _locations(sets: Sequence[RequestedSet], workspace: str) -> ReferenceImageLocations:
    return ReferenceImageLocations(*(each.location(workspace) for each in sets))


def generate_sets(sets: Sequence[RequestedSet], workspace: str) -> None:
    """Generate sets, or this process's share of them.

    Args:
        sets: The sets, in the same order in all processes.
        workspace: Local path or `s3://` location for the images.
    """
    if not sets:
        return
    config, seed = sets[0].task.reference_images, sets[0].task.seed
    # Needs no model, and so neither a GPU nor the loading below.
    if isinstance(config.source, FolderSource):
        _import_sets(sets, config.source, workspace)
        return
    # Loaded once for both sets, because a pipeline of diffusers is large.
    source = _load_source(sets[0].task)
    for each in sets:
        location = each.location(workspace)
        queue = open_work_queue(location)
        if queue.rank == 0:
            each.record_needed(workspace)
        with _record_elapsed(location, len(each.needed) * each.images_per_prompt, queue):
            generate_reference_images(
                source,
                each.needed,
                config,
                images_per_prompt=each.images_per_prompt,
                seed=seed,
                location=location,
                queue=queue,
                all_prompts=each.prompts,
            )


def _import_sets(sets: Sequence[RequestedSet], source: FolderSource, workspace: str) -> None:
    folder = local_folder(source.location)
    for each in sets:
        location = each.location(workspace)
        queue = open_work_queue(location)
        # Resizing pictures is fast enough for one worker.
        if queue.rank == 0:
            pixels = each.task.reference_images.resolution_pixels
            origin = origin_of(source, each.input_digest, pixels)
            import_folder(folder, source, origin, location, each.split)
        # The other workers must not return before the set exists.
        queue.barrier("imported")


def _generate_in_processes(sets: Sequence[RequestedSet], workspace: str, processes: int) -> None:
    arguments = {"sets": sets, "workspace": workspace}
    run_in_processes(generate_sets, arguments, task=TASK, processes=processes)


def _load_source(task: ReferenceImagesSettings) -> ReferenceImageSource:
    config = task.reference_images
    if isinstance(config.source, DiffusersSourceConfig):
        # diffusers takes seconds to load.
        from advgrpo.reference_images.diffusers_source import DiffusersSource  # noqa: PLC0415

        return DiffusersSource(
            config.source, resolution_pixels=config.resolution_pixels, device=ProcessGroup().device
        )
    if config.source is None:
        raise ConfigError(
            f"reference_images.existing={config.existing} lacks images of some prompts, and "
            "reference_images.source, which would generate them, is not set",
            repair="set reference_images.existing_test to a set of the test prompts, or pin the "
            "source's weights to a commit",
        )
    return PocketRenderer()


@contextmanager
def _record_elapsed(location: str, images: int, queue: WorkQueue) -> Iterator[None]:
    if queue.rank != 0:
        yield
        return
    # `once`: a call for a complete set only checks it, which must not count as generation.
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    with record_elapsed(cost_file(location), processes=processes, images=images, once=True):
        yield
