"""The task reference-images."""

from kfp import dsl

from components.cluster import LAUNCHER


@dsl.component(base_image=LAUNCHER, install_kfp_package=False)
def reference_images(
    settings: dsl.Input[dsl.Artifact],
    workspace: str,
    processes: int,
    parent_run_id: str,
    run_id: str,
    train_images: dsl.Output[dsl.Dataset],
    test_images: dsl.Output[dsl.Dataset],
) -> None:
    """Generate reference images for the training and test prompts, or import existing ones.

    Args:
        settings: All settings of the run.
        workspace: Folder or s3:// location for the images.
        processes: Processes that generate images, one per GPU.
        parent_run_id: MLflow run to nest in.
        run_id: Id of the pipeline run. A retry adopts the job that the run has started already.
        train_images: Reference images of the training prompts.
        test_images: Reference images of the test prompts.
    """
    from advgrpo.config.tasks import ReferenceImagesSettings, read_run
    from advgrpo.runtime.dispatch import run_task
    from advgrpo.runtime.pipeline_tasks import REFERENCE_IMAGES
    from advgrpo.runtime.results import refer

    arguments = {
        "settings": ReferenceImagesSettings.of(read_run(settings.path)).model_dump_json(),
        "workspace": workspace,
        "processes": processes,
        "parent_run_id": parent_run_id,
    }
    images = run_task(REFERENCE_IMAGES, arguments, run_id=run_id)
    refer(train_images, images.train)
    refer(test_images, images.test)
