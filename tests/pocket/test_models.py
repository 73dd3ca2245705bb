import hashlib
import subprocess
import sys
from pathlib import Path

import torch

from advgrpo.pocket.captions import all_captions
from advgrpo.pocket.models import build_dino, build_pickscore, build_pipeline

ROOT = Path(__file__).parents[2]


def digest_of_models_and_tokens() -> str:
    torch.rand(7)
    pipeline = build_pipeline(3)
    digest = hashlib.sha256()
    for module in (pipeline.transformer, pipeline.vae, pipeline.text_encoder, build_dino(3)):
        for value in module.state_dict().values():
            digest.update(value.numpy().tobytes())
    texts = [caption.text for caption in all_captions()]
    for tokenizer in (pipeline.tokenizer, pipeline.tokenizer_2, pipeline.tokenizer_3):
        digest.update(repr(tokenizer(texts).input_ids).encode())
    return digest.hexdigest()


def test_two_processes_build_the_same_models_and_tokens() -> None:
    program = "from tests.pocket.test_models import *; print(digest_of_models_and_tokens())"
    finished = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        # The hash seed of this process is random.
        env={"PYTHONHASHSEED": "1", "PATH": "", "OMP_NUM_THREADS": "1"},
    )
    assert finished.stdout.split()[-1] == digest_of_models_and_tokens()


def test_building_leaves_the_global_random_state_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    build_dino(0)
    build_pickscore(0)
    build_pipeline(0)
    assert torch.equal(torch.rand(1), expected)
