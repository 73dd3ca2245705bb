"""Parameters of models whose architecture the plan does not know."""

from collections.abc import Mapping
from itertools import chain
from math import prod
from pathlib import Path

from advgrpo.config.base import Weights
from advgrpo.storage.locations import scheme
from advgrpo.strict_json import load_json_object

_Z_IMAGE = {"transformer": 6_154_908_736, "text_encoder": 4_022_468_096}
_FLUX1 = {"text_encoder": 123_060_480, "text_encoder_2": 4_762_310_656}
_KLEIN_4B = {
    "transformer": 3_875_544_576,
    "vae": 84_046_115,
    "text_encoder": 4_022_468_096,
}
_KLEIN_9B = {
    "transformer": 9_078_581_248,
    "vae": 84_046_115,
    "text_encoder": 8_190_735_360,
}
PARAMETERS: Mapping[str, Mapping[str, int]] = {
    "hub://Tongyi-MAI/Z-Image": _Z_IMAGE,
    "hub://Tongyi-MAI/Z-Image-Turbo": _Z_IMAGE,
    "hub://Qwen/Qwen-Image": {
        "transformer": 20_430_401_088,
        "vae": 126_892_531,
        "text_encoder": 8_292_166_656,
    },
    # The distilled guidance of [dev] is an additional input.
    "hub://black-forest-labs/FLUX.1-dev": {"transformer": 11_901_408_320, **_FLUX1},
    "hub://black-forest-labs/FLUX.1-schnell": {"transformer": 11_891_178_560, **_FLUX1},
    "hub://black-forest-labs/FLUX.2-klein-4B": _KLEIN_4B,
    "hub://black-forest-labs/FLUX.2-klein-base-4B": _KLEIN_4B,
    "hub://black-forest-labs/FLUX.2-klein-9B": _KLEIN_9B,
    "hub://black-forest-labs/FLUX.2-klein-base-9B": _KLEIN_9B,
}
"""Location -> part of the pipeline -> parameters."""

_LARGEST_HEADER = 2**27


def parameters(weights: Weights, *parts: str) -> int | None:
    """Count the parameters of parts of a pipeline, without reading their values.

    Args:
        weights: Location of the pipeline.
        parts: Names of its folders; those that it lacks count nothing.

    Returns:
        From the headers of files in a local folder, or from `PARAMETERS`; None if unknown.
    """
    location = weights.location.rstrip("/")
    if scheme(location) == "hub":
        known = PARAMETERS.get(location, {})
        return sum(known[part] for part in parts if part in known) or None
    # An object on S3 would have to be downloaded.
    if scheme(location):
        return None
    root = Path(location, weights.subfolder)
    files = chain.from_iterable(sorted((root / part).glob("*.safetensors")) for part in parts)
    try:
        # Half-precision copies are not loaded.
        return sum(_in_file(file) for file in files if ".fp16." not in file.name) or None
    except (OSError, ValueError, TypeError, KeyError):
        # Not an error of the plan: loading the model reports a damaged file.
        return None


def _in_file(path: Path) -> int:
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        if size > _LARGEST_HEADER:
            raise ValueError(f"{path} has a header of {size} bytes")
        header = load_json_object(file.read(size))
    return sum(prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__")
