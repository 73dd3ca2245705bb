import dataclasses
import json
import math
from pathlib import Path

import pytest
import torch

from studies.bench import __main__ as command
from studies.bench import gpu
from studies.bench.comparison import ComparisonLoop
from studies.bench.measure import CountingCounters, matmul_rate
from studies.bench.run import Result, benchmark
from studies.bench.shapes import SD35_MEDIUM, autoencoder, transformer
from studies.bench.world import SIZES, World, make_world

CPU = torch.device("cpu")
FEW = (
    "training.sampling.num_inference_steps=4",
    "training.rollout={prompts_per_update: 2, group_size: 2, microbatch_size: 2}",
)
SMALL = dataclasses.replace(SIZES["tiny"], overrides=(*SIZES["tiny"].overrides, *FEW))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bench")


@pytest.fixture(scope="module")
def world(folder: Path) -> World:
    return make_world(SMALL, folder)


@pytest.fixture(scope="module")
def result(folder: Path) -> Result:
    return benchmark("tiny", folder, rounds=1, overrides=FEW)


def test_every_part_of_an_update_is_timed_and_its_operations_counted(result: Result) -> None:
    parts = ("rollout", "reward", "policy update", "discriminator update")
    assert all(result.seconds[part] > 0 for part in parts)
    assert sum(result.seconds[part] for part in parts) <= result.seconds["update"]
    assert all(result.operations[part] > 0 for part in parts)


def test_ratios_follow_from_the_seconds(result: Result) -> None:
    seconds = {"update": 2.0, "rollout": 1.0, "checkpoint": 0.5}
    figures = dataclasses.replace(
        result,
        seconds=seconds,
        comparison_seconds={"rollout for the discriminator": 1.0, "rollout for the policy": 11.0},
        operations={"rollout": 30},
        matmul_rate=100.0,
        every_updates={"checkpoint": 10},
    )
    assert figures.ratios() == pytest.approx(
        {
            "images_per_second": 1.0,
            "policy_updates_per_second": 10.0,
            "share_of_matmul_rate/rollout": 0.3,
            "share_of_update/checkpoint": 0.025,
        }
    )


def test_the_comparison_loop_trains_head_and_adapter_in_turns(world: World) -> None:
    loop = ComparisonLoop(world)
    head, adapter = loop.trained()
    loop.train_discriminator()
    head_after, adapter_after = loop.trained()
    assert not torch.equal(head, head_after)
    assert torch.equal(adapter, adapter_after)
    loop.train_policy()
    assert torch.equal(head_after, loop.trained()[0])
    assert not torch.equal(adapter_after, loop.trained()[1])


def test_a_matrix_product_is_counted_twice_for_each_multiplication() -> None:
    counters = CountingCounters(CPU)
    with counters.timed("product"):
        torch.ones(2, 3) @ torch.ones(3, 5)
    assert counters.operations == {"product": 2 * 2 * 3 * 5}


def test_attention_is_counted_on_a_cpu() -> None:
    counters = CountingCounters(CPU)
    query = torch.ones(1, 1, 4, 8)
    with counters.timed("attention"):
        torch.nn.functional.scaled_dot_product_attention(query, query, query)
    assert counters.operations == {"attention": 2 * 2 * 4 * 4 * 8}


def test_the_rate_of_matrix_products_is_a_positive_number() -> None:
    assert matmul_rate(CPU, torch.float32, rounds=1) > 0


def test_the_full_shapes_are_those_of_sd35_medium() -> None:
    with torch.device("meta"):
        policy, vae = (
            transformer(SD35_MEDIUM.pipeline["transformer"]),
            autoencoder(SD35_MEDIUM.pipeline["vae"]),
        )
    assert policy.config.joint_attention_dim == SD35_MEDIUM.pipeline["text_encoder_3"]["d_model"]
    assert sum(value.numel() for value in policy.parameters()) == pytest.approx(2.24e9, rel=0.01)
    assert policy.config.in_channels == vae.config.latent_channels


def test_the_full_size_is_refused_without_a_gpu(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["bench", "--size", "sd35_medium"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit):
        command.main()
    assert "needs a GPU; --size tiny" in capsys.readouterr().err


def test_the_table_names_every_figure(result: Result) -> None:
    text = command.summary(result)
    assert "policy updates per second, ours / comparison" in text
    json.dumps(result.as_json())


def test_the_benchmark_of_a_gpu_times_cases_and_resumes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(
        gpu, "CASES", {"plain": {}, "half": {"half": True, "guidance": "two_passes"}}
    )
    timed = gpu.time_passes(SIZES["tiny"], CPU, until=math.inf)
    assert all(timed[case]["update_images_per_second"] > 0 for case in ("plain", "half"))
    found = gpu.resume(SMALL, tmp_path / "resume", "ddp")
    assert found == {"ratio_error_before_step": 0, "largest_difference_after_resume": 0}
