from collections import Counter

import pytest
import torch

from advgrpo.planning.cards import CARDS
from studies.bench.operators import (
    BANDWIDTH,
    LAUNCH_SECONDS,
    PRODUCTS,
    Operator,
    Work,
    counted_operators,
)

H100 = CARDS["h100"]


def test_a_kernel_takes_the_longer_of_operations_and_bytes() -> None:
    computing = Operator("bfloat16", 10**12, 8).seconds(H100)
    assert computing == 1e12 / (PRODUCTS * H100.bfloat16) + LAUNCH_SECONDS
    reading = Operator("bfloat16", 8, 10**9).seconds(H100)
    assert reading == 1e9 / BANDWIDTH / H100.bandwidth + LAUNCH_SECONDS
    exact, frozen = Operator("float32", 10**12, 8), Operator("bfloat16", 10**12, 8)
    tf32 = Work(Counter({exact: 1, frozen: 1})).in_tf32()
    assert tf32.operations == 2e12
    assert tf32.seconds(H100) == pytest.approx(3 * computing, rel=1e-3)


def test_elementwise_work_between_products_is_one_kernel_that_reads_and_writes_once() -> None:
    values, weight = (torch.empty(64, 64, device="meta") for _ in range(2))
    with counted_operators() as counter:
        hidden = torch.nn.functional.gelu(values @ weight + 1).mul(2)
        hidden.t() @ weight
    size = 64 * 64 * 4
    product = Operator("float32", 2 * 64**3, 3 * size)
    assert counter.fused.kernels[product] == 2
    assert counter.fused.kernels[Operator("elementwise", 0, 2 * size)] == 1
    assert counter.eager.kernels[Operator("elementwise", 0, 2 * size)] == 3
    assert counter.fused.operations == counter.eager.operations == 2 * 2 * 64**3


def test_elementwise_work_waits_for_the_product_that_needs_it() -> None:
    values, weight = (torch.empty(64, 64, device="meta") for _ in range(2))
    with counted_operators() as counter:
        total = values @ weight + values @ weight
        another = values @ weight
        (torch.relu(total) @ weight, another)
    size = 64 * 64 * 4
    elementwise = {k: n for k, n in counter.fused.kernels.items() if k.kind == "elementwise"}
    assert elementwise == {Operator("elementwise", 0, 3 * size): 1}


def test_a_value_is_kept_where_its_inputs_are_larger() -> None:
    *parts, weight = (torch.empty(64, 64, device="meta") for _ in range(4))
    with counted_operators() as counter:
        total = parts[0] + parts[1] + parts[2]
        for factor in (2, 3):
            (total * factor) @ weight
    size = 64 * 64 * 4
    # Reads three and writes one; writes the sum, reads it and writes another.
    for count in (4, 3):
        assert counter.fused.kernels[Operator("elementwise", 0, count * size)] == 1


def test_the_backward_pass_of_attention_is_counted() -> None:
    query = torch.empty(1, 1, 16, 32, device="meta", requires_grad=True)
    with counted_operators() as counter:
        torch.nn.functional.scaled_dot_product_attention(query, query, query).sum().backward()
    forward = 2 * 2 * 16 * 16 * 32
    # Five products against two.
    attention = [each for each in counter.eager.kernels if each.kind == "attention"]
    assert sum(each.operations for each in attention) == 3.5 * forward
