"""`advgrpo reference-images`: generate and validate reference images."""

from typing import Annotated

import typer

from advgrpo.cli.options import (
    DEFAULT_PRESET,
    DEFAULT_WORKSPACE,
    Output,
    Overrides,
    ParentRun,
    Preset,
    Processes,
    Workspace,
)

app = typer.Typer(help="Generate and validate reference images.", no_args_is_help=True)


@app.command()
def generate(
    preset: Preset = DEFAULT_PRESET,
    overrides: Overrides = [],
    processes: Processes = 1,
    workspace: Workspace = DEFAULT_WORKSPACE,
    output: Output = None,
    parent_run: ParentRun = "",
) -> None:
    """Generate reference images for training and test prompts, or validate an existing set."""
    from advgrpo.cli.bars import progress_bars
    from advgrpo.config.resolution import resolve
    from advgrpo.config.tasks import ReferenceImagesSettings

    settings = ReferenceImagesSettings.of(resolve(preset, overrides))
    # The task loads torch, which takes seconds: wrong settings are reported before that.
    from advgrpo.storage.archives import extract
    from advgrpo.storage.folders import upload_folder
    from advgrpo.tasks.reference_images import make_reference_images

    with progress_bars():
        made = make_reference_images(
            settings.model_dump_json(),
            workspace=workspace,
            processes=processes,
            parent_run_id=parent_run,
        )
    for name, location in (("train", made.train), ("test", made.test)):
        print(f"{name}: {location}")
        if output is not None:
            # Sets may be packed into archives; the copy has plain files.
            upload_folder(extract(location), str(output / name))


@app.command("validate")
def validate_reference_images(
    location: Annotated[str, typer.Argument(help="Folder or s3:// location of the set.")],
    preset: Preset = DEFAULT_PRESET,
    overrides: Overrides = [],
    test: Annotated[bool, typer.Option("--test", help="Validate for the test prompts.")] = False,
) -> None:
    """Validate every file of a reference image set against a run's settings."""
    from advgrpo.config.resolution import resolve

    config = resolve(preset, overrides)
    from advgrpo.reference_images.opening import inspect_set

    report = inspect_set(location, config, "test" if test else "train")
    print(report)
    # After the report, so that all problems are printed before the error.
    report.validated()
