"""The task pretrain-reward."""

from kfp import dsl

from components.cluster import LAUNCHER


@dsl.component(base_image=LAUNCHER, install_kfp_package=False)
def pretrain_reward(
    settings: str,
    reference_images: str,
    workspace: str,
    parent_run_id: str,
    run_id: str,
    metrics: dsl.Output[dsl.Metrics],
) -> str:
    """Train the discriminator on images of the base model before the first update.

    Args:
        settings: The task's settings as JSON text.
        reference_images: Location of the training prompts' reference images.
        workspace: Folder or s3:// location for the result.
        parent_run_id: MLflow run to nest in.
        run_id: Id of the pipeline run. A retry adopts the job that the run has started already.
        metrics: Held-out accuracy and margins of the discriminator.

    Returns:
        Location of the discriminator.
    """
    from advgrpo.runtime.dispatch import run_task
    from advgrpo.runtime.pipeline_tasks import PRETRAIN_REWARD

    arguments = {
        "settings": settings,
        "reference_images": reference_images,
        "workspace": workspace,
        "parent_run_id": parent_run_id,
    }
    result = run_task(PRETRAIN_REWARD, arguments, run_id=run_id)
    metrics.metadata.update(result.write_metrics(metrics.path))
    return result.location
