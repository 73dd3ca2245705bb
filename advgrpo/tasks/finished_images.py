"""Finished reference images, found without torch; see `finished`."""

from advgrpo.config.reference_images import FolderSource
from advgrpo.config.tasks import ReferenceImagesSettings, parse_json
from advgrpo.data.prompts import read_run_prompts
from advgrpo.reference_images.request import requested_sets
from advgrpo.runtime.pipeline_tasks import REFERENCE_IMAGES
from advgrpo.runtime.results import ReferenceImageLocations
from advgrpo.runtime.task_context import track_task


def find_reference_images(
    settings: str, *, workspace: str, processes: int = 1, parent_run_id: str = ""
) -> ReferenceImageLocations | None:
    """Return generated reference images and record them; None without them.

    Takes the arguments of `advgrpo.tasks.reference_images.make_reference_images`. Images from
    elsewhere need its job, which checks that they have not changed.

    Raises:
        AdvGrpoError: If prompts or the lists of the images cannot be read.
    """
    del processes  # The images do not depend on their number.
    task = parse_json(ReferenceImagesSettings, settings, where="the settings")
    config = task.reference_images
    if config.existing or config.existing_test or isinstance(config.source, FolderSource):
        return None
    sets = requested_sets(task, read_run_prompts(task.prompts))
    if not all(each.is_generated(workspace) for each in sets):
        return None
    locations = ReferenceImageLocations(*(each.location(workspace) for each in sets))
    with track_task(REFERENCE_IMAGES.name, parent_run_id, workspace) as run:
        run.parameters({**task.model_dump(mode="json"), **locations._asdict()})
    return locations
