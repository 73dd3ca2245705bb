"""The pipeline's tasks, each alone."""

from typing import TYPE_CHECKING, Annotated

import typer

from advgrpo.cli.options import (
    DEFAULT_PRESET,
    DEFAULT_WORKSPACE,
    Discriminator,
    Output,
    Overrides,
    ParentRun,
    Preset,
    Processes,
    ReferenceImages,
    Trained,
    Workspace,
)

if TYPE_CHECKING:
    from advgrpo.runtime.results import TaskResult


def pretrain_reward(
    reference_images: ReferenceImages,
    preset: Preset = DEFAULT_PRESET,
    overrides: Overrides = [],
    workspace: Workspace = DEFAULT_WORKSPACE,
    output: Output = None,
    parent_run: ParentRun = "",
) -> None:
    """Train the discriminator on base-model images before the first update."""
    from advgrpo.config import resolve
    from advgrpo.config.tasks import PretrainingSettings
    from advgrpo.tasks import pretrain_reward as task

    settings = PretrainingSettings.of(resolve(preset, overrides))
    result = task.pretrain_reward(
        settings.model_dump_json(),
        reference_images=reference_images,
        workspace=workspace,
        parent_run_id=parent_run,
    )
    _tell(result, output)


def train(
    reference_images: ReferenceImages,
    discriminator: Discriminator,
    preset: Preset = DEFAULT_PRESET,
    overrides: Overrides = [],
    processes: Processes = 1,
    workspace: Workspace = DEFAULT_WORKSPACE,
    output: Output = None,
    parent_run: ParentRun = "",
) -> None:
    """Post-train the policy; started again, it goes on from its last checkpoint."""
    from advgrpo.config import resolve
    from advgrpo.config.tasks import TrainingSettings
    from advgrpo.tasks import train as task

    config = resolve(preset, overrides)
    config.check_ranks(processes)
    result = task.train(
        TrainingSettings.of(config).model_dump_json(),
        reference_images=reference_images,
        discriminator=discriminator,
        workspace=workspace,
        processes=processes,
        parent_run_id=parent_run,
    )
    _tell(result, output)


def evaluate(
    discriminator: Discriminator,
    reference_images: ReferenceImages,
    trained: Trained = "",
    adapter: Annotated[
        str,
        typer.Option(
            "--adapter",
            help="In place of --trained, an adapter from elsewhere: a folder, s3:// location or "
            "hub://owner/name/folder@COMMIT.",
        ),
    ] = "",
    preset: Preset = DEFAULT_PRESET,
    overrides: Overrides = [],
    processes: Processes = 1,
    workspace: Workspace = DEFAULT_WORKSPACE,
    output: Output = None,
    parent_run: ParentRun = "",
) -> None:
    """Measure the trained model against its base and the champion; started again, it goes on."""
    from advgrpo.config import resolve
    from advgrpo.errors import ConfigError
    from advgrpo.tasks import evaluate as task
    from advgrpo.tasks.import_adapter import adopt

    if bool(trained) == bool(adapter):
        raise ConfigError(
            "what is to be measured is named " + ("twice" if trained else "nowhere"),
            repair="give either --trained or --adapter",
        )
    config = resolve(preset, overrides)
    if adapter:
        trained = adopt(config, adapter, discriminator=discriminator, workspace=workspace)
    result = task.evaluate(
        config.model_dump_json(),
        trained=trained,
        discriminator=discriminator,
        reference_images=reference_images,
        workspace=workspace,
        processes=processes,
        parent_run_id=parent_run,
    )
    _tell(result, output)


def register(
    trained: Trained,
    evaluation: Annotated[
        str, typer.Option("--evaluation", help="Folder or s3:// location of an evaluation.")
    ],
    preset: Preset = DEFAULT_PRESET,
    overrides: Overrides = [],
    parent_run: ParentRun = "",
) -> None:
    """Make the trained adapter a version of a registered model."""
    from advgrpo.config import resolve
    from advgrpo.tasks import register as task

    version = task.register(
        resolve(preset, overrides).model_dump_json(),
        trained=trained,
        evaluation=evaluation,
        parent_run_id=parent_run,
    )
    print(version)


def _tell(result: "TaskResult", output: Output) -> None:
    for name, value in result.metrics.items():
        print(f"{name}: {value:.6g}")
    print(f"result: {result.location}")
    if output is not None:
        result.copy(output)
