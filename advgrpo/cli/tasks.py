"""Commands that run single tasks of the pipeline."""

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
    """Pre-train the discriminator on images of the base model."""
    from advgrpo.cli.bars import progress_bars
    from advgrpo.config.resolution import resolve
    from advgrpo.config.tasks import PretrainingSettings

    settings = PretrainingSettings.of(resolve(preset, overrides))
    # Tasks load torch, which takes seconds: wrong settings are reported before that.
    from advgrpo.tasks import pretrain_reward as task

    with progress_bars():
        result = task.pretrain_reward(
            settings.model_dump_json(),
            reference_images=reference_images,
            workspace=workspace,
            parent_run_id=parent_run,
        )
    _print_result(result, output)


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
    """Post-train the policy; repeated, it resumes from its last checkpoint."""
    from advgrpo.cli.bars import progress_bars
    from advgrpo.config.resolution import resolve
    from advgrpo.config.tasks import TrainingSettings

    config = resolve(preset, overrides)
    # A rule across sections of the whole run, whose settings the task does not receive.
    config.check_ranks(processes)
    from advgrpo.tasks import train as task

    with progress_bars():
        result = task.train(
            # As JSON, as the pipeline passes them: equal settings have equal cache keys.
            TrainingSettings.of(config).model_dump_json(),
            reference_images=reference_images,
            discriminator=discriminator,
            workspace=workspace,
            processes=processes,
            parent_run_id=parent_run,
        )
    _print_result(result, output)


def evaluate(
    reference_images: ReferenceImages,
    discriminator: Annotated[
        str,
        typer.Option(
            "--discriminator",
            help="Folder or s3:// location of a discriminator. With --adapter it can be left out; "
            "its reward is then not evaluated.",
        ),
    ] = "",
    trained: Trained = "",
    adapter: Annotated[
        str,
        typer.Option(
            "--adapter",
            help="Instead of --trained, an adapter of other origin: folder, s3:// location or "
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
    """Evaluate the trained model against its base and the champion; repeated, it resumes."""
    from advgrpo.cli.bars import progress_bars
    from advgrpo.config.resolution import resolve
    from advgrpo.errors import ConfigError

    # Exactly one of the two.
    if bool(trained) == bool(adapter):
        raise ConfigError(
            "--trained and --adapter are both given" if trained else "no adapter is given",
            repair="use either --trained or --adapter",
        )
    if trained and not discriminator:
        raise ConfigError(
            "--trained is given without --discriminator",
            repair="add --discriminator with the result of pretrain-reward",
        )
    config = resolve(preset, overrides)
    from advgrpo.tasks import evaluate as task
    from advgrpo.tasks.import_adapter import import_adapter

    if adapter:
        # Stored as a training result, so that the evaluation treats both alike.
        trained = import_adapter(config, adapter, discriminator=discriminator, workspace=workspace)
    with progress_bars():
        result = task.evaluate(
            # The whole settings, which the report shows.
            config.model_dump_json(),
            trained=trained,
            discriminator=discriminator,
            reference_images=reference_images,
            workspace=workspace,
            processes=processes,
            parent_run_id=parent_run,
        )
    _print_result(result, output)


def register(
    trained: Trained,
    evaluation: Annotated[
        str, typer.Option("--evaluation", help="Folder or s3:// location of an evaluation.")
    ],
    preset: Preset = DEFAULT_PRESET,
    overrides: Overrides = [],
    parent_run: ParentRun = "",
) -> None:
    """Register the trained adapter as a new version of a registered model."""
    from advgrpo.config.resolution import resolve

    settings = resolve(preset, overrides).model_dump_json()
    from advgrpo.tasks import register as task

    version = task.register(
        settings,
        trained=trained,
        evaluation=evaluation,
        parent_run_id=parent_run,
    )
    print(version)


def _print_result(result: "TaskResult", output: Output) -> None:
    for name, value in result.metrics.items():
        print(f"{name}: {value:.6g}")
    print(f"result: {result.location}")
    if output is not None:
        # A copy: the next task needs the result at its location in the workspace.
        result.copy(output)
