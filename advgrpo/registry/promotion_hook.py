"""The promotion hook, which runs a Kubeflow pipeline for each new champion."""

import os
from collections.abc import Callable, Mapping
from typing import Any

from advgrpo.errors import ClusterError, ConfigError
from advgrpo.registry.champion_changes import Announce, Promotion
from advgrpo.strict_json import load_json

PIPELINE_VARIABLE = "ADVGRPO_ON_PROMOTION_PIPELINE"
"""Environment variable with the name of the pipeline; if it is unset, there is no hook."""

PARAMETERS_VARIABLE = "ADVGRPO_ON_PROMOTION_PARAMETERS"
"""Environment variable with the pipeline's parameters as a JSON object. In strings, `{name}`,
`{version}` and `{uri}` are replaced by those of the champion."""

EXPERIMENT = "advgrpo promotions"
_DEFAULT_PARAMETERS = '{"model": "{uri}"}'


def promotion_hook(connect: Callable[[], Any] | None = None) -> Announce | None:
    """Return the hook that the environment configures.

    Args:
        connect: Returns the client; by default `kfp.Client`, which reads `KF_PIPELINES_ENDPOINT`.

    Returns:
        A function that starts a run; None if no pipeline is configured.

    Raises:
        ConfigError: If the parameters are not a JSON object.
    """
    pipeline = os.environ.get(PIPELINE_VARIABLE)
    if not pipeline:
        return None
    text = os.environ.get(PARAMETERS_VARIABLE) or _DEFAULT_PARAMETERS
    try:
        # Parsed when the process starts, so that a mistake does not first show at a promotion.
        parameters = load_json(text)
    except ValueError as error:
        raise ConfigError(
            f"{PARAMETERS_VARIABLE}={text}: not JSON: {error}",
            repair=f"set it to a JSON object, for instance {_DEFAULT_PARAMETERS}",
        ) from error
    if not isinstance(parameters, dict):
        raise ConfigError(
            f"{PARAMETERS_VARIABLE}={text}: not a JSON object",
            repair=f"set it to one, for instance {_DEFAULT_PARAMETERS}",
        )

    def start(promotion: Promotion) -> str:
        return _start(connect or _client, pipeline, parameters, promotion)

    return start


def _start(
    connect: Callable[[], Any],
    pipeline: str,
    parameters: Mapping[str, object],
    promotion: Promotion,
) -> str:
    try:
        client = connect()
        pipeline_id = client.get_pipeline_id(pipeline)
        if pipeline_id is None:
            raise ClusterError(
                f"{PIPELINE_VARIABLE}={pipeline}: Kubeflow has no pipeline of this name",
                repair=f"upload it, or set {PIPELINE_VARIABLE} to the name of an existing pipeline",
            )
        versions = client.list_pipeline_versions(
            pipeline_id, page_size=1, sort_by="created_at desc"
        )
        run = client.run_pipeline(
            experiment_id=client.create_experiment(EXPERIMENT).experiment_id,
            job_name=f"{promotion.name} version {promotion.version}",
            pipeline_id=pipeline_id,
            version_id=versions.pipeline_versions[0].pipeline_version_id,
            params={key: _fill(value, promotion) for key, value in parameters.items()},
        )
    except ClusterError:
        raise
    except Exception as error:
        # kfp does not wrap the exceptions of its HTTP libraries.
        raise ClusterError(
            f"the pipeline {pipeline} was not started: {type(error).__name__}: {error}",
            repair="check KF_PIPELINES_ENDPOINT and that Kubeflow Pipelines answers",
        ) from error
    return f"run {run.run_id} of pipeline {pipeline}"


def _fill(value: object, promotion: Promotion) -> object:
    if not isinstance(value, str):
        return value
    facts = {
        "{name}": promotion.name,
        "{version}": str(promotion.version),
        "{uri}": promotion.uri,
    }
    # Not `str.format`, which would fail on other braces, such as those of JSON in a parameter.
    for mark, fact in facts.items():
        value = value.replace(mark, fact)
    return value


def _client() -> Any:  # noqa: ANN401 - kfp has no types
    import kfp  # noqa: PLC0415 - takes a second to load

    return kfp.Client()
