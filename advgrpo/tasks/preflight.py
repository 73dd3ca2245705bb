"""Checks of a run's settings and surroundings, before anything is created."""

from collections.abc import Iterable
from pathlib import Path

from advgrpo.cluster.job_request import place_processes
from advgrpo.cluster.settings import cluster_settings
from advgrpo.config.locations import locations
from advgrpo.config.resolution import resolve
from advgrpo.config.run import RunConfig
from advgrpo.data.prompts import Prompts, quoted_texts, read_run_prompts
from advgrpo.data.splits import check_split
from advgrpo.errors import ConfigError, StorageNotFoundError
from advgrpo.storage.files import exists, is_remote, list_files
from advgrpo.storage.locations import scheme
from advgrpo.storage.probe import check_writable
from advgrpo.tracking.address import require_tracking_uri
from advgrpo.tracking.further_loggers import check_further_loggers

REGISTRY_NEEDED = "the task register creates a model version in its registry"
"""Why a pipeline run needs an MLflow server."""


def check_processes(config: RunConfig, processes: int) -> None:
    """Raise an error if training processes cannot share an update evenly or fill their nodes.

    Raises:
        ConfigError: If so. Names numbers that work.
    """
    config.check_ranks(processes)
    cluster = cluster_settings()
    if cluster is not None:
        place_processes(processes, cluster)


def check_prompts(config: RunConfig, processes: int) -> Prompts:
    """Read both prompt files and check that there are enough prompts for a run.

    Returns:
        The prompts.

    Raises:
        ConfigError: If there are too few, or a reward term cannot score some of them.
        PromptFileError: If a file cannot be used or has another hash than the settings give.
        StorageError: If a file cannot be fetched.
    """
    prompts = read_run_prompts(config.prompts)
    train = prompts.train
    check_split(
        train.texts,
        held_out_fraction=config.discriminator.held_out_fraction,
        prompts_per_update=config.training.rollout.prompts_per_update,
        world_size=processes,
    )
    for setting, scorer in config.training.reward.scorers.items():
        unquoted = [text for text in train.texts if not quoted_texts(text)]
        if scorer.needs_quoted_text and unquoted:
            raise ConfigError(
                f"{setting} ({scorer.type}) cannot score {len(unquoted)} of the {len(train)} "
                f"prompts in {config.prompts.train}: they quote no text, for instance "
                f"{unquoted[0]!r}",
                repair="put the text to write into quotation marks, as in: a sign that says "
                '"open", or remove these prompts from prompts.train',
            )
    return prompts


def check_local_run(preset: str, overrides: Iterable[str], processes: int) -> None:
    """Check the settings, prompts and MLflow server of a pipeline run on this machine.

    Raises:
        ConfigError: If a setting is wrong, or `MLFLOW_TRACKING_URI` is not set.
        PromptFileError: If a prompt file cannot be used.
        StorageError: If a prompt file cannot be fetched.
    """
    config = resolve(preset, overrides)
    check_further_loggers(config.tracking.also)
    check_processes(config, processes)
    check_prompts(config, processes)
    require_tracking_uri(REGISTRY_NEEDED)


def prompts_are_local(config: RunConfig) -> bool:
    """Return whether this machine should have both prompt files, and can read them.

    A relative path that does not exist is a mistake; an absolute one may be part of an image.
    """
    return all(
        scheme(location) == "package"
        or (not scheme(location) and (Path(location).is_file() or not Path(location).is_absolute()))
        for location in (config.prompts.train, config.prompts.test)
    )


def check_cluster(config: RunConfig, workspace: str) -> None:
    """On a cluster, check that jobs can be started and reach all locations; else do nothing.

    Raises:
        ConfigError: If pods cannot reach a location.
        ClusterUnavailableError: If the API server does not answer.
        ClusterError: If jobs cannot be started.
    """
    cluster = cluster_settings()
    if cluster is None:
        return
    # Loads the package `kubernetes`, which takes a second and is not needed on a laptop.
    from advgrpo.cluster.checks.doctor import require_ready  # noqa: PLC0415

    check_reachable(config, workspace)
    require_ready(cluster)


def check_locations(config: RunConfig, workspace: str) -> None:
    """Check that the workspace is writable and that objects named in settings exist.

    Raises:
        StorageError: If the workspace cannot be written, or an object does not exist.
    """
    check_writable(workspace)
    for key, location in locations(config).items():
        # A location is one object or a prefix of several.
        if is_remote(location) and not (exists(location) or list_files(location)):
            raise StorageNotFoundError(
                f"{key}={location}: does not exist",
                repair=f"upload it, or set {key} to the location of what was uploaded",
            )


def check_reachable(config: RunConfig, workspace: str) -> None:
    """Raise an error if a cluster's pods cannot reach a location.

    An absolute path is accepted: it may be part of the image.

    Raises:
        ConfigError: If the workspace is not on S3, or a setting is a relative path.
    """
    if not is_remote(workspace):
        raise ConfigError(
            f"workspace={workspace!r} cannot be reached from the pods of a cluster",
            repair="set workspace to an s3://bucket/folder location",
        )
    for key, location in locations(config).items():
        # A relative path would be resolved against the pod's working directory.
        if not scheme(location) and not location.startswith("/"):
            raise ConfigError(
                f"{key}={location} is a local path, which the pods of a cluster do not have",
                repair=f"upload it and set {key} to its s3:// location",
            )
