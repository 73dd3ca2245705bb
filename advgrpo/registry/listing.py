"""Lists, cards and comparisons of registered versions."""

from collections.abc import Iterator
from dataclasses import dataclass

from advgrpo.registry.card import format_interval, model_card
from advgrpo.registry.champion_changes import DECISION_TAG, list_registered_models
from advgrpo.registry.evidence import Evidence, read_evidence, read_settings
from advgrpo.registry.registration import GATES_TAG
from advgrpo.registry.versions import open_version
from advgrpo.telemetry.formatting import format_table
from advgrpo.tracking.connection import FAULTS, connect, describe_error


@dataclass(frozen=True)
class VersionSummary:
    """A version as shown in a list."""

    name: str
    version: int
    aliases: tuple[str, ...]
    gates: str
    """`passed`, `failed` or `none`, as at registration."""

    decision: str
    """The last decision about its promotion; empty if there is none."""


def list_versions(tracking_uri: str, name: str = "") -> list[VersionSummary]:
    """List the versions of all registered models that hold adapters, or of one.

    Raises:
        TrackingError: If MLflow is not available.
    """
    summaries: list[VersionSummary] = []
    for model in [name] if name else list_registered_models(tracking_uri):
        try:
            client = connect(tracking_uri)
            aliases = client.get_registered_model(model).aliases
            versions = client.search_model_versions(f"name = '{model}'")
        except FAULTS as error:
            raise describe_error(error, f"list the versions of {model}", tracking_uri) from error
        summaries += [
            VersionSummary(
                name=model,
                version=int(version.version),
                aliases=tuple(
                    sorted(
                        alias
                        for alias, number in aliases.items()
                        if int(number) == int(version.version)
                    )
                ),
                # From tags: downloading every version for its evidence would take minutes.
                gates=version.tags.get(GATES_TAG, "none"),
                decision=version.tags.get(DECISION_TAG, ""),
            )
            # By number: MLflow does not order them, and a text sort would place 10 before 2.
            for version in sorted(versions, key=lambda version: int(version.version))
        ]
    return summaries


def show_version(tracking_uri: str, name: str, which: str) -> str:
    """Return a version's model card with the last decision about it.

    Raises:
        TrackingError: If the version does not exist, a file changed, or MLflow is not available.
    """
    with open_version(name, which, tracking_uri=tracking_uri, action="show") as (version, folder):
        card = model_card(read_settings(folder), read_evidence(folder))
    decision = version.tags.get(DECISION_TAG, "none")
    return f"Version {version.version} of {name}. Decision: {decision}\n\n{card}"


def compare_versions(tracking_uri: str, name: str, first: str, second: str) -> str:
    """Return a table with the metrics of two versions.

    Raises:
        TrackingError: If the version does not exist, a file changed, or MLflow is not available.
    """
    one, other = (_evidence(tracking_uri, name, which) for which in (first, second))
    rows = list(_rows(one, other))
    return "\n".join([_caution(one, other), "", *format_table(rows)])


def _evidence(tracking_uri: str, name: str, which: str) -> tuple[int, Evidence]:
    with open_version(name, which, tracking_uri=tracking_uri, action="read") as (version, folder):
        return int(version.version), read_evidence(folder)


def _caution(one: tuple[int, Evidence], other: tuple[int, Evidence]) -> str:
    for (number, _), (version, evidence) in ((one, other), (other, one)):
        # Only then do both numbers come from the same prompts and seeds.
        if evidence.report.champion == number:
            return (
                f"Version {version} was compared with version {number} on the same prompts and "
                f"seeds: see `advgrpo registry show` of version {version} for the differences."
            )
    return (
        "From two evaluations, perhaps of different prompts and seeds: only a difference much "
        "larger than both intervals is significant."
    )


def _rows(one: tuple[int, Evidence], other: tuple[int, Evidence]) -> Iterator[tuple[str, str, str]]:
    yield "metric of the trained model", f"version {one[0]}", f"version {other[0]}"
    first_metrics = {c.metric: c for c in one[1].report.comparisons}
    second_metrics = {c.metric: c for c in other[1].report.comparisons}
    for metric in dict.fromkeys((*first_metrics, *second_metrics)):
        pair = first_metrics.get(metric), second_metrics.get(metric)
        is_rewarded = any(c is not None and c.trained_on for c in pair)
        label = f"{metric} (its reward was trained on it)" if is_rewarded else metric
        first, second = ("not evaluated" if c is None else format_interval(c.trained) for c in pair)
        yield label, first, second
