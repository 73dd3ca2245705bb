"""Verification of a registered version: file hashes, and a replay of its evaluation."""

from dataclasses import dataclass

from advgrpo.errors import ConfigError, TrackingError
from advgrpo.registry.evidence import SAMPLE_FOLDER, read_evidence, read_settings
from advgrpo.registry.versions import ADAPTER_FOLDER, open_version, version_uri

LEVELS_TOLERANCE = 2.0
"""Tolerated mean difference of two images, of 256 levels; kernels of GPUs and CPUs differ."""

ALIGNMENT_TOLERANCE = 0.02
"""Tolerated difference of a prompt's alignment, relative to its value or 1, the larger."""


@dataclass(frozen=True)
class Verification:
    """Result of a successful verification."""

    uri: str
    prompts: int
    """Number of replayed prompts; all files were hashed in any case."""

    largest_difference_levels: float = 0.0
    """Largest mean difference of all images, in levels of 256."""

    largest_alignment_difference: float = 0.0
    """Largest difference of alignment of all prompts."""


def verify(name: str, which: str, *, tracking_uri: str, prompts: int) -> Verification:
    """Hash a version's files and replay some prompts of its evaluation.

    Args:
        name: The registered model.
        which: Number or alias of the version.
        tracking_uri: The MLflow server.
        prompts: Maximum number of prompts to replay; 0 only hashes, which needs no model.

    Raises:
        ConfigError: If prompts are to be replayed without torch.
        TrackingError: If a file changed, an image or a score differs from the recorded one, or
            MLflow is not available.
        WeightsError: If the base model is missing or of another architecture.
    """
    with open_version(name, which, tracking_uri=tracking_uri, action="verify") as (version, folder):
        uri = version_uri(version)
        # The files are verified by now: `open_version` hashes them all.
        sample = read_evidence(folder).sample[:prompts]
        if not prompts:
            return Verification(uri, 0)
        if not sample:
            raise TrackingError(
                f"{uri} has no sample of its evaluation to replay",
                repair="use --prompts 0, which only hashes",
            )
        try:
            # Needs torch, which the image of registry tasks does not have.
            from advgrpo.registry.replay import replay_prompts  # noqa: PLC0415
        except ModuleNotFoundError as error:
            raise ConfigError(
                f"the replay needs {error.name}, which is not installed",
                repair="pip install 'advgrpo[train]', or use --prompts 0, which only hashes",
            ) from error
        differences = replay_prompts(
            read_settings(folder), folder / ADAPTER_FOLDER, sample, folder / SAMPLE_FOLDER
        )
    for prompt, (levels, alignment) in zip(sample, differences, strict=True):
        allowed = ALIGNMENT_TOLERANCE * max(1.0, abs(prompt.alignment))
        # NaN fails these comparisons; their negations would accept it.
        if not (levels <= LEVELS_TOLERANCE and alignment <= allowed):
            raise TrackingError(
                f"{uri} does not reproduce its evaluation: for {prompt.prompt!r} its images differ "
                f"by {levels:.2f} of 256 levels (tolerance {LEVELS_TOLERANCE:g}) and its alignment "
                f"by {alignment:.4g} (tolerance {allowed:.4g})",
                repair="check that the weights in its settings.json did not change since the run, "
                "and install the versions in its requirements.txt",
            )
    levels, alignment = (max(column) for column in zip(*differences, strict=True))
    return Verification(uri, len(sample), levels, alignment)
