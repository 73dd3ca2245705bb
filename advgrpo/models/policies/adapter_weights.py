"""The adapter's weights, read and replaced as a whole."""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor
from torch.nn import Parameter


class AdapterWeights:
    """Weights of the adapter that is being trained.

    Args:
        parameters: Its parameters, by name.
    """

    def __init__(self, parameters: dict[str, Parameter]) -> None:
        self._parameters = parameters

    def adapter(self) -> dict[str, Tensor]:
        """Copy the adapter's weights, whole; every rank must call it."""
        with self._whole():
            # Clones, because outside the context the gathered tensors are empty again under ZeRO-3.
            return {name: value.detach().clone() for name, value in self._parameters.items()}

    @contextmanager
    def adapter_as(self, values: Mapping[str, Tensor]) -> Iterator[None]:
        """Replace the adapter's weights within the context, for instance by their moving average.

        Every rank must enter and leave it; no optimizer step may be taken within.
        """
        # Copied before the first change: `_overwrite` writes into the same memory.
        own = self.adapter()
        self._overwrite(values)
        try:
            yield
        finally:
            self._overwrite(own)

    def _overwrite(self, values: Mapping[str, Tensor]) -> None:
        # Under ZeRO-3 only the writes of rank 0 are kept; it broadcasts them on leaving the
        # context.
        with self._whole(modifier_rank=0):
            copy_into(self._parameters, values)

    def _whole(self, modifier_rank: int | None = None) -> AbstractContextManager[None]:
        """Gather weights that an engine partitions over the ranks; without one, none are."""
        del modifier_rank
        return nullcontext()


def copy_into(parameters: Mapping[str, Parameter], values: Mapping[str, Tensor]) -> None:
    """Overwrite parameters in place."""
    with torch.no_grad():
        for name, parameter in parameters.items():
            # In place: the optimizer and the engine hold references to these parameters.
            parameter.copy_(values[name])
