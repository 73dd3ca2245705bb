from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from advgrpo.pocket.models import build_dino, build_pickscore, build_pipeline

DIGEST = """
import hashlib, torch
from advgrpo.pocket.captions import all_captions
from advgrpo.pocket.models import build_dino, build_pipeline
torch.rand(7)
pipeline = build_pipeline(3)
digest = hashlib.sha256()
for module in (pipeline.transformer, pipeline.vae, pipeline.text_encoder, build_dino(3)):
    for value in module.state_dict().values():
        digest.update(value.numpy().tobytes())
texts = [caption.text for caption in all_captions()]
for tokenizer in (pipeline.tokenizer, pipeline.tokenizer_2, pipeline.tokenizer_3):
    digest.update(repr(tokenizer(texts).input_ids).encode())
print(digest.hexdigest())
"""


def _digest(hash_seed: str) -> str:
    finished = subprocess.run(
        [sys.executable, "-c", DIGEST],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONHASHSEED": hash_seed, "PATH": "", "OMP_NUM_THREADS": "1"},
    )
    return finished.stdout.split()[-1]


@pytest.mark.slow
def test_two_processes_build_the_same_models_and_tokens():
    assert _digest("1") == _digest("2")


def test_building_leaves_the_global_random_state_alone():
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    build_dino(0)
    build_pickscore(0)
    build_pipeline(0)
    assert torch.equal(torch.rand(1), expected)
