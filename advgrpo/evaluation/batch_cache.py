"""A cache of measured batches, by which processes share an evaluation and resume it."""

import hashlib
import json
from typing import Protocol, runtime_checkable

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from advgrpo.errors import StorageNotFoundError
from advgrpo.evaluation.results import MeasuredImages
from advgrpo.storage.files import read_bytes, write_bytes
from advgrpo.storage.locations import join
from advgrpo.strict_json import load_json_object

_VALUE = "value."


@runtime_checkable
class BatchCache(Protocol):
    """Measured batches by name."""

    def read(self, name: str) -> MeasuredImages | None:
        """Return a batch; None if it does not exist or is incomplete."""
        ...

    def write(self, name: str, measured: MeasuredImages) -> None:
        """Store a batch."""
        ...


class MemoryBatchCache:
    """A cache that lives as long as the process."""

    def __init__(self) -> None:
        self._batches: dict[str, MeasuredImages] = {}

    def read(self, name: str) -> MeasuredImages | None:
        """Return a batch."""
        return self._batches.get(name)

    def write(self, name: str, measured: MeasuredImages) -> None:
        """Store a batch."""
        self._batches[name] = measured


class WorkspaceBatchCache:
    """A cache in the workspace: a safetensors file for each batch and a JSON file with its hash.

    The JSON file is written last. A batch whose files do not match is treated as missing.

    Args:
        location: Local folder or `s3://` location.
    """

    def __init__(self, location: str) -> None:
        self._location = location

    def read(self, name: str) -> MeasuredImages | None:
        """Return a batch after checking its hash."""
        try:
            listed = load_json_object(read_bytes(self._file(name, "json")))
            data = read_bytes(self._file(name, "safetensors"))
            if hashlib.sha256(data).hexdigest() != listed["sha256"]:
                return None
            tensors = load(data)
            return MeasuredImages(
                prompts=tensors["prompts"],
                # Safetensors sorts its keys; the report lists metrics in their original order.
                values={metric: tensors[_VALUE + metric] for metric in listed["metrics"]},
                features=tensors["features"],
                clip_features=tensors.get("clip_features"),
            )
        # A damaged batch is treated as missing, so it is measured again.
        except (StorageNotFoundError, SafetensorError, ValueError, KeyError, TypeError):
            return None

    def write(self, name: str, measured: MeasuredImages) -> None:
        """Store a batch.

        Raises:
            StorageError: If it cannot be written.
        """
        values = {_VALUE + metric: value for metric, value in measured.values.items()}
        tensors = {"prompts": measured.prompts, "features": measured.features, **values}
        if measured.clip_features is not None:
            tensors["clip_features"] = measured.clip_features
        # Metrics may be views of one tensor, which safetensors refuses to save.
        data = save({key: value.clone().contiguous() for key, value in tensors.items()})
        write_bytes(self._file(name, "safetensors"), data)
        listed = {
            "sha256": hashlib.sha256(data).hexdigest(),
            "images": len(measured.prompts),
            "metrics": list(measured.values),
        }
        write_bytes(self._file(name, "json"), json.dumps(listed, indent=1).encode())

    def _file(self, name: str, kind: str) -> str:
        return join(self._location, f"{name}.{kind}")


def concatenate(batches: list[MeasuredImages]) -> MeasuredImages:
    """Concatenate batches in their order."""
    # All batches have CLIP features or none: the settings decide.
    clip = [batch.clip_features for batch in batches if batch.clip_features is not None]
    return MeasuredImages(
        prompts=torch.cat([batch.prompts for batch in batches]),
        values={
            metric: torch.cat([batch.values[metric] for batch in batches])
            for metric in batches[0].values
        },
        features=torch.cat([batch.features for batch in batches]),
        clip_features=torch.cat(clip) if clip else None,
    )
