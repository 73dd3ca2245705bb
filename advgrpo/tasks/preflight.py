"""What a run would fail on later, found out before anything is made."""

from advgrpo.cluster.job_request import shape_of
from advgrpo.cluster.settings import cluster_settings
from advgrpo.config import RunConfig, locations, pretrained_weights
from advgrpo.config.reward import OcrReward
from advgrpo.data.prompts import check_disjoint, quoted_texts, read_prompts
from advgrpo.data.splits import check_prompts
from advgrpo.errors import ConfigError, StorageNotFoundError
from advgrpo.storage import check_writable, exists, list_files, pinned, scheme


def check_processes(config: RunConfig, processes: int) -> None:
    """Refuse a number of training processes that cannot share an update or fill their nodes.

    Raises:
        ConfigError: If so; names numbers that work.
    """
    config.check_ranks(processes)
    cluster = cluster_settings()
    if cluster is not None:
        shape_of(processes, cluster)


def check_prompt_files(config: RunConfig, processes: int) -> None:
    """Read both prompt files, and see that there are enough prompts for a run.

    Raises:
        ConfigError: If there are too few, or a term of the reward cannot measure some.
        PromptFileError: If a file cannot be used.
    """
    train, test = read_prompts(config.prompts.train), read_prompts(config.prompts.test)
    check_disjoint(train, test)
    check_prompts(
        train.texts,
        held_out_fraction=config.discriminator.held_out_fraction,
        prompts_per_update=config.training.rollout.prompts_per_update,
        world_size=processes,
    )
    for setting, term in config.training.reward.scorers.items():
        bare = [text for text in train.texts if not quoted_texts(text)]
        if isinstance(term, OcrReward) and bare:
            raise ConfigError(
                f"{setting} (ocr) cannot reward {len(bare)} of the {len(train)} prompts of "
                f"{config.prompts.train}, which quote no text, for instance {bare[0]!r}",
                repair="put what is to be written into quotation marks, as in: a sign that says "
                '"open", or take those prompts out',
            )


def check_cluster(config: RunConfig, workspace: str) -> None:
    """On a cluster, see that jobs can be started and reach what they need; else do nothing.

    Raises:
        ConfigError: If a cluster's pods cannot reach a location.
        ClusterUnavailableError: If the API server does not answer.
        ClusterError: If jobs could not be started.
    """
    cluster = cluster_settings()
    if cluster is None:
        return
    # The package `kubernetes` takes a second to load, and a laptop does without it.
    from advgrpo.cluster.doctor import require_ready  # noqa: PLC0415

    check_reachable(config, workspace)
    require_ready(cluster)


def check_places(config: RunConfig, workspace: str) -> None:
    """See that results can be kept, and that what settings name in an object store is there.

    Raises:
        ConfigError: If weights are not pinned.
        StorageError: If the workspace cannot be written, or something is missing.
    """
    check_writable(workspace)
    for weights in pretrained_weights(config).values():
        if scheme(weights.location) == "hub":
            pinned(weights)
    for key, location in locations(config).items():
        if scheme(location) == "s3" and not (exists(location) or list_files(location)):
            raise StorageNotFoundError(
                f"{key}={location}: there is nothing", repair="check the location"
            )


def check_reachable(config: RunConfig, workspace: str) -> None:
    """Refuse locations that mean nothing in a cluster's pods.

    An absolute path may be one of the image's.

    Raises:
        ConfigError: If the workspace is not on S3, or a relative path is named.
    """
    if scheme(workspace) != "s3":
        raise ConfigError(
            f"workspace={workspace!r} cannot be reached from the pods of a cluster",
            repair="use an s3:// location",
        )
    for key, location in locations(config).items():
        if not scheme(location) and not location.startswith("/"):
            raise ConfigError(
                f"{key}={location} is a path that the pods of a cluster do not have",
                repair="upload it and give its s3:// location",
            )
