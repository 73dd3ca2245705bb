"""The task evaluate."""

from kfp import dsl

from components.images import TRAINER


@dsl.component(base_image=TRAINER, install_kfp_package=False)
def evaluate(
    settings: str,
    trained: str,
    discriminator: str,
    reference_images: str,
    workspace: str,
    parent_run_id: str,
    report: dsl.Output[dsl.HTML],
    metrics: dsl.Output[dsl.Metrics],
) -> str:
    """Measure the trained model against its base on held-out prompts.

    Args:
        settings: All of the run's settings as JSON text.
        trained: Location of the training's result.
        discriminator: Location of the pre-trained discriminator, for the report's costs.
        reference_images: Location of the test prompts' reference images.
        workspace: Where the result is kept.
        parent_run_id: MLflow run to nest in.
        report: One page with images, curves and a table.
        metrics: Every measure of both models.

    Returns:
        Location of the evaluation.
    """
    from advgrpo.tasks import evaluate as task

    result = task.evaluate(
        settings,
        trained=trained,
        discriminator=discriminator,
        reference_images=reference_images,
        workspace=workspace,
        parent_run_id=parent_run_id,
    )
    result.copy(report.path, "report.html")
    metrics.metadata.update(result.write_metrics(metrics.path))
    return result.location
