"""The task reference-images."""

from typing import NamedTuple

from kfp import dsl

from components.images import TRAINER


@dsl.component(base_image=TRAINER, install_kfp_package=False)
def reference_images(settings: str, workspace: str, parent_run_id: str) -> NamedTuple(  # type: ignore[valid-type]
    "Outputs", train=str, test=str
):
    """Draw reference images for training and test prompts, or validate an existing set.

    Args:
        settings: The task's settings as JSON text.
        workspace: Where images are kept.
        parent_run_id: MLflow run to nest in.

    Returns:
        Locations of the two sets.
    """
    from advgrpo.tasks import reference_images as task

    return task.make_reference_images(settings, workspace=workspace, parent_run_id=parent_run_id)
