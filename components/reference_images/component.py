"""The task reference-images."""

from typing import NamedTuple

from kfp import dsl

from components.cluster import LAUNCHER


@dsl.component(base_image=LAUNCHER, install_kfp_package=False)
def reference_images(
    settings: str, workspace: str, processes: int, parent_run_id: str, run_id: str
) -> NamedTuple(  # type: ignore[valid-type]
    "Outputs", train=str, test=str
):
    """Generate reference images for the training and test prompts, or import existing ones.

    Args:
        settings: The task's settings as JSON text.
        workspace: Folder or s3:// location for the images.
        processes: Processes that generate images, one per GPU.
        parent_run_id: MLflow run to nest in.
        run_id: Id of the pipeline run. A retry adopts the job that the run has started already.

    Returns:
        Locations of the two sets.
    """
    from advgrpo.runtime.dispatch import run_task
    from advgrpo.runtime.pipeline_tasks import REFERENCE_IMAGES

    arguments = {
        "settings": settings,
        "workspace": workspace,
        "processes": processes,
        "parent_run_id": parent_run_id,
    }
    return run_task(REFERENCE_IMAGES, arguments, run_id=run_id)
