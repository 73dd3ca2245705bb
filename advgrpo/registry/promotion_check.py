"""The check whether a version of a registered model may become champion.

It evaluates the gates again from the evidence among the version's files, which are verified by
their registered hashes. Tags, which anyone can edit in MLflow, are not trusted.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from mlflow.entities.model_registry import ModelVersion

from advgrpo.errors import TrackingError
from advgrpo.evaluation.gates import all_gates_pass, check_gates
from advgrpo.registry.evidence import Evidence, read_evidence, read_settings
from advgrpo.registry.versions import download_version, read_policy

ROLLED_BACK_TAG = "advgrpo.rolled_back"
"""Tag with the reason of a rollback; the version needs an override to become champion again."""


@dataclass(frozen=True)
class PromotionCheck:
    """Reasons against a version as champion."""

    errors: tuple[str, ...] = ()
    """Reasons that no override sets aside: damage, or another base model."""

    objections: tuple[str, ...] = ()
    """Reasons that an override sets aside."""

    @property
    def ok(self) -> bool:
        """Whether there is no reason against the version."""
        return not (self.errors or self.objections)

    def __str__(self) -> str:
        return "; ".join((*self.errors, *self.objections)) or "all gates passed"


def check_promotion(
    version: ModelVersion, champion: ModelVersion | None, tracking_uri: str
) -> PromotionCheck:
    """Check whether a version may become champion.

    Args:
        version: The version, whose files are downloaded and verified.
        champion: The recorded champion, or None.
        tracking_uri: The MLflow server.
    """
    try:
        with download_version(version, tracking_uri) as folder:
            evidence, policy = read_evidence(folder), read_settings(folder).policy
        champion_policy = None if champion is None else read_policy(champion)
    except TrackingError as error:
        # A damaged version is a result, not an error, so that reconciliation can refuse it and
        # continue.
        return PromotionCheck(errors=(error.message,))
    # Users load the champion onto one base model; an adapter for another one would break them.
    if champion_policy is not None and champion_policy.weights != policy.weights:
        other_base = (
            f"it is an adapter for the base model {policy.weights.location}, the champion for "
            f"{champion_policy.weights.location}"
        )
        return PromotionCheck(errors=(other_base,))
    return PromotionCheck(objections=tuple(_objections(version, evidence, champion)))


def _objections(
    version: ModelVersion, evidence: Evidence, champion: ModelVersion | None
) -> Iterator[str]:
    if ROLLED_BACK_TAG in version.tags:
        yield f"it was rolled back: {version.tags[ROLLED_BACK_TAG]}"
    current = None if champion is None else int(champion.version)
    # Gates against an old champion say nothing about the present one.
    compared = evidence.report.champion
    if compared != current:
        yield (
            f"it was compared with {version_name(compared)}, but the champion is now "
            f"{version_name(current)}: evaluate and register it again"
        )
    # Computed again instead of reading `evidence.results`, which an older release may have written.
    results = check_gates(evidence.gates, evidence.report)
    if not results:
        yield "it was registered without gates (promotion.gates)"
    elif not all_gates_pass(results):
        yield from (
            f"the gate {result.gate} failed: {result.reason}"
            for result in results
            if not result.passed
        )


def version_name(number: int | None) -> str:
    """Return the text for a version's number: `version 3`, or `none`."""
    return "none" if number is None else f"version {number}"
