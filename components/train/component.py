"""The task train."""

from kfp import dsl

from components.cluster import LAUNCHER


@dsl.component(base_image=LAUNCHER, install_kfp_package=False)
def train(
    settings: str,
    reference_images: str,
    discriminator: str,
    workspace: str,
    processes: int,
    parent_run_id: str,
    run_id: str,
    adapter: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
) -> str:
    """Post-train the policy, resuming from the last checkpoint if there is one.

    Args:
        settings: The task's settings as JSON text.
        reference_images: Location of the training prompts' reference images.
        discriminator: Location of the pre-trained discriminator.
        workspace: Folder or s3:// location for checkpoints and the result.
        processes: Training processes, one per GPU.
        parent_run_id: MLflow run to nest in.
        run_id: Id of the pipeline run. A retry adopts the job that the run has started already.
        adapter: The trained adapter, in the formats of peft and diffusers.
        metrics: Held-out metrics of the adapter, and the time and memory of the training.

    Returns:
        Location of the training result.
    """
    from advgrpo.runtime.dispatch import run_task
    from advgrpo.runtime.pipeline_tasks import TRAIN

    arguments = {
        "settings": settings,
        "reference_images": reference_images,
        "discriminator": discriminator,
        "workspace": workspace,
        "processes": processes,
        "parent_run_id": parent_run_id,
    }
    result = run_task(TRAIN, arguments, run_id=run_id)
    result.copy(adapter.path, "adapter")
    metrics.metadata.update(result.write_metrics(metrics.path))
    return result.location
