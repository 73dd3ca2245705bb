"""Fuzzed files: images, archives, weights and their configurations."""

import hashlib
import json
from functools import cache
from pathlib import Path

from advgrpo.config import PolicyConfig, Weights, resolve
from advgrpo.data.images import decode_image, encode_png, read_image
from advgrpo.models.backbones.loading import model_type_of
from advgrpo.models.backbones.preprocessing import PREPROCESSOR_FILE, read_preprocessing
from advgrpo.models.meta import configuration
from advgrpo.models.policies.pipeline_parts import INDEX_FILE
from advgrpo.models.policies.saved_adapter import (
    PEFT_SETTINGS,
    read_adapter,
    read_shape,
)
from advgrpo.models.policies.sd3 import PARTS
from advgrpo.records import PEFT_WEIGHTS
from advgrpo.reference_images.diffusers_source import _read_index
from advgrpo.storage import COMMIT_FILE
from advgrpo.storage.archives import _extract_parts
from advgrpo.storage.hub import _patterns
from advgrpo.training.checkpoint import STATE_FILE, Checkpoints
from advgrpo.training.nonfinite_dump import DUMP_FILE, TENSORS_FILE, read_dump
from studies.fuzz.contract import rejects

PIXELS = 16
"""Side length of the fuzzed pictures."""

RUN = "a run"
"""Digest of the run of the fuzzed checkpoints."""

EMPTY_SAFETENSORS = (2).to_bytes(8, "little") + b"{}"


def image_content(data: bytes) -> None:
    """Content of an image; a decoded image must survive a round trip."""
    try:
        image = decode_image(data)
    except ValueError:
        return
    assert bool((decode_image(encode_png(image)) == image).all())


def image_file(data: bytes, place: Path) -> None:
    """An image file of a set."""
    path = place / "image.png"
    path.write_bytes(data)
    if not rejects(lambda: read_image(path, PIXELS), path):
        image_content(data)


def archive(data: bytes, place: Path) -> None:
    """A tar archive of images; nothing may be written outside of the target folder."""
    packed = place / "packed"
    packed.mkdir(exist_ok=True)
    (packed / "part-0.tar").write_bytes(data)
    rejects(lambda: _extract_parts(str(packed), ["part-0.tar"], place / "unpacked"), packed)
    assert {path.name for path in packed.iterdir()} == {"part-0.tar"}
    assert {path.name for path in place.iterdir()} <= {"packed", "unpacked"}


def adapter_settings(data: bytes, place: Path) -> None:
    """An `adapter_config.json`."""
    (place / PEFT_SETTINGS).write_bytes(data)
    (place / PEFT_WEIGHTS).write_bytes(EMPTY_SAFETENSORS)
    rejects(lambda: read_shape(place), place)


def adapter_weights(data: bytes, place: Path) -> None:
    """A safetensors file of an adapter."""
    (place / PEFT_WEIGHTS).write_bytes(data)
    rejects(lambda: read_adapter(place), place)


def model_folder(data: bytes, place: Path) -> None:
    """Configuration files of a model."""
    for name in ("config.json", PREPROCESSOR_FILE, INDEX_FILE):
        (place / name).write_bytes(data)
    weights = Weights(location=str(place))
    rejects(lambda: configuration(weights), place)
    policy = _pocket().model_copy(update={"weights": weights})
    rejects(lambda: model_type_of(place), place)
    rejects(lambda: read_preprocessing(place, resolution_pixels=224), place)
    rejects(lambda: PARTS.folder(policy), place)
    rejects(lambda: _read_index(place), place)
    rejects(lambda: _patterns(place), place)


@cache
def _pocket() -> PolicyConfig:
    return resolve("pocket").policy


def checkpoint(data: bytes, place: Path) -> None:
    """The JSON part of a checkpoint, with a matching hash."""
    _commit(place / "rollout-00000001", {STATE_FILE: data, "policy.safetensors": EMPTY_SAFETENSORS})
    store = Checkpoints(str(place), run_digest=RUN, keep=1, scratch=place.parent / "scratch")
    rejects(lambda: store.load_newest(0), place)


def dump(data: bytes, place: Path) -> None:
    """A dump of a non-finite rollout."""
    folder = place / "kept"
    _commit(folder, {DUMP_FILE: data, TENSORS_FILE: EMPTY_SAFETENSORS})
    rejects(lambda: read_dump(str(folder)), folder)


def _commit(folder: Path, files: dict[str, bytes]) -> None:
    folder.mkdir(exist_ok=True)
    listed = {}
    for name, data in files.items():
        (folder / name).write_bytes(data)
        listed[name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (folder / COMMIT_FILE).write_text(json.dumps({"files": listed}), encoding="utf-8")
