"""FLOPs of a policy's passes, and the rate at which its device multiplies matrices."""

import time
from functools import cached_property

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from advgrpo.models.policies.base import FlowModel

_SIDE = {"cuda": 8192, "cpu": 512}
"""Side of the matrices by device: large enough for its best rate, multiplied in milliseconds."""

_REPEATS = 5

Shape = tuple[int, ...]


class PolicySpeed:
    """What throughput is compared with. Each number is measured when it is first read.

    Args:
        policy: The model; under ZeRO-3, all ranks must read its numbers together.
        prompt: Of the images that are counted.
        dtype: Precision of its forward pass.
    """

    def __init__(self, policy: FlowModel, prompt: str, dtype: torch.dtype) -> None:
        self._policy, self._prompt, self._dtype = policy, prompt, dtype
        self._latents = torch.zeros(1, *policy.latent_shape, device=policy.device)

    @cached_property
    def pass_flops(self) -> float:
        """FLOPs of a forward pass of one image through the transformer."""
        embeddings = self._policy.embed([self._prompt])
        # Compiled kernels hide their operators from the counter.
        with torch.compiler.set_stance("force_eager"), torch.no_grad(), _counter() as counter:
            self._policy.velocity(self._latents, 0.5, embeddings, guidance_scale=None)
        return float(counter.get_total_flops())

    @cached_property
    def decode_flops(self) -> float:
        """FLOPs of decoding one image."""
        with _counter() as counter:
            self._policy.decode(self._latents)
        return float(counter.get_total_flops())

    @cached_property
    def matmul_rate(self) -> float:
        """Largest measured rate of a large matrix product in the precision of the forward pass."""
        device = self._policy.device
        side = _SIDE[device.type]
        values = torch.randn(side, side, generator=torch.Generator().manual_seed(0))
        matrix = values.to(device, self._dtype)
        seconds = []
        for _ in range(_REPEATS):
            began = time.perf_counter()
            # Reading a value waits for the device.
            float(torch.mm(matrix, matrix)[0, 0])
            seconds.append(time.perf_counter() - began)
        # The first one includes the choice of a kernel.
        return 2 * side**3 / min(seconds)


def _counter() -> FlopCounterMode:
    # torch does not count attention on CPUs.
    attention = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    return FlopCounterMode(display=False, custom_mapping={attention: _attention_flops})


def _attention_flops(query: Shape, key: Shape, value: Shape, *_: object, **__: object) -> int:
    flops: int = sdpa_flop_count(query, key, value)
    return flops
