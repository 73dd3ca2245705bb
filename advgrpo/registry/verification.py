"""Check that a registered version is what it was registered as, and draws what it drew."""

from dataclasses import dataclass

from advgrpo.errors import ConfigError, TrackingError
from advgrpo.registry.evidence import SAMPLE_FOLDER, read_evidence, read_settings
from advgrpo.registry.versions import ADAPTER_FOLDER, download_version, find_version, version_uri
from advgrpo.tracking.connection import FAULTS, connect, describe_error

LEVELS_TOLERANCE = 2.0
"""Of 256: the mean difference that two kinds of processor may make between two drawings."""

ALIGNMENT_TOLERANCE = 0.02
"""Difference of a prompt's alignment that is still the same, as a share of its recorded value or of
1, whichever is larger."""


@dataclass(frozen=True)
class Verified:
    """What checking a version found."""

    uri: str
    prompts: int
    """Prompts that were drawn and scored again; every file was hashed."""

    largest_difference_levels: float = 0.0
    """Of all images: the largest mean difference, in levels of 256."""

    largest_alignment_difference: float = 0.0
    """Of all prompts: the largest difference of alignment."""


def verify(name: str, which: str, *, tracking_uri: str, prompts: int) -> Verified:
    """Hash a version's files, and draw and score some of its evaluation's prompts again.

    Args:
        name: The registered model.
        which: Number or alias of the version.
        tracking_uri: The MLflow server.
        prompts: Most prompts to repeat; 0 hashes only, for which no model is needed.

    Raises:
        ConfigError: If prompts are to be drawn where there is no torch.
        TrackingError: If a file changed, an image or a score is not what was recorded, or MLflow is
            not available.
        WeightsError: If the base model is missing or of another architecture.
    """
    try:
        version = find_version(connect(tracking_uri), name, which)
        uri = version_uri(version)
        with download_version(version, tracking_uri) as folder:
            sample = read_evidence(folder).sample[:prompts]
            if not prompts:
                return Verified(uri, 0)
            if not sample:
                raise TrackingError(
                    f"{uri} holds no sample of its evaluation to repeat",
                    repair="hash only, with --prompts 0",
                )
            try:
                from advgrpo.registry.replay import repeat_prompts  # noqa: PLC0415
            except ModuleNotFoundError as error:
                raise ConfigError(
                    f"nothing can be drawn here, where {error.name} is not installed",
                    repair="pip install 'advgrpo[train]', or hash only, with --prompts 0",
                ) from error
            differences = repeat_prompts(
                read_settings(folder), folder / ADAPTER_FOLDER, sample, folder / SAMPLE_FOLDER
            )
    except FAULTS as error:
        raise describe_error(error, f"verify {which} of {name}", tracking_uri) from error
    for prompt, (levels, alignment) in zip(sample, differences, strict=True):
        allowed = ALIGNMENT_TOLERANCE * max(1.0, abs(prompt.alignment))
        # Written so that NaN is no pass.
        if not (levels <= LEVELS_TOLERANCE and alignment <= allowed):
            raise TrackingError(
                f"{uri} does not repeat its evaluation: for {prompt.prompt!r} its images differ by "
                f"{levels:.2f} of 256 levels ({LEVELS_TOLERANCE:g} are allowed) and its alignment "
                f"by {alignment:.4g} ({allowed:.4g})",
                repair="check that policy.weights and the scorers' weights in its settings.json "
                "are still what they were, and the versions in its requirements.txt",
            )
    levels, alignment = (max(column) for column in zip(*differences, strict=True))
    return Verified(uri, len(sample), levels, alignment)
