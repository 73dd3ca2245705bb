"""Judge whether a version of a registered model may be its champion.

The judgement rests on the evidence among the version's files, which are checked against the hashes
of registration, and never on a tag that says what the gates said.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from mlflow.entities.model_registry import ModelVersion

from advgrpo.errors import TrackingError
from advgrpo.evaluation.gates import check_gates, passed_all
from advgrpo.registry.evidence import Evidence, read_evidence, read_settings
from advgrpo.registry.versions import fetched_version, registered_policy

ROLLED_BACK_TAG = "advgrpo.rolled_back"
"""Why a version is champion no more; it does not come back without an override."""


@dataclass(frozen=True)
class Judgement:
    """What speaks against a version as champion, in words; nothing if nothing does."""

    damage: tuple[str, ...] = ()
    """What nobody can override."""

    objections: tuple[str, ...] = ()
    """What an override with a reason can set aside."""

    @property
    def is_lawful(self) -> bool:
        """Whether nothing speaks against the version."""
        return not (self.damage or self.objections)

    def __str__(self) -> str:
        return "; ".join((*self.damage, *self.objections)) or "all gates passed"


def judge(version: ModelVersion, champion: ModelVersion | None, tracking_uri: str) -> Judgement:
    """Judge whether a version may be champion.

    Args:
        version: The version, whose files are fetched and checked.
        champion: The lawful champion; None if there is none.
        tracking_uri: The MLflow server.
    """
    try:
        with fetched_version(version, tracking_uri) as folder:
            evidence, policy = read_evidence(folder), read_settings(folder).policy
        theirs = None if champion is None else registered_policy(champion)
    except TrackingError as error:
        return Judgement(damage=(error.message,))
    if theirs is not None and theirs.weights != policy.weights:
        other = (
            f"it is an adapter for the base model {policy.weights.location}, the champion for "
            f"{theirs.weights.location}"
        )
        return Judgement(damage=(other,))
    return Judgement(objections=tuple(_objections(version, evidence, champion)))


def _objections(
    version: ModelVersion, evidence: Evidence, champion: ModelVersion | None
) -> Iterator[str]:
    if ROLLED_BACK_TAG in version.tags:
        yield f"it was rolled back: {version.tags[ROLLED_BACK_TAG]}"
    current = None if champion is None else int(champion.version)
    compared = evidence.report.champion
    if compared != current:
        yield (
            f"it was compared with {called(compared)}, but the champion is now "
            f"{called(current)}: evaluate and register it again"
        )
    results = check_gates(evidence.gates, evidence.report)
    if not results:
        yield "it was registered without gates (promotion.gates)"
    elif not passed_all(results):
        yield from (
            f"the gate {result.gate} failed: {result.reason}"
            for result in results
            if not result.passed
        )


def called(number: int | None) -> str:
    """Name a version in a sentence."""
    return "none" if number is None else f"version {number}"
