"""Precision of the products of frozen models on a GPU."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from advgrpo.config.base import FrozenPrecision


@contextmanager
def frozen_products(precision: FrozenPrecision) -> Iterator[None]:
    """Multiply float32 matrices on a GPU in the precision of frozen models within the context.

    TF32 has the range of float32 and 10 bits of mantissa; sums stay in float32.
    """
    matmul = torch.backends.cuda.matmul
    before = matmul.allow_tf32
    matmul.allow_tf32 = precision != "float32"
    try:
        yield
    finally:
        matmul.allow_tf32 = before
