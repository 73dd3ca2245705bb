"""What another process, whose sets have another order, computes alike."""

import hashlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch

from advgrpo.algorithm.seeds import seed_for
from advgrpo.config.policy import Sd3AdapterConfig
from advgrpo.models.policies.adapter import save_adapter
from advgrpo.pocket.captions import all_captions
from advgrpo.pocket.models import build_dino, build_pipeline

ROOT = Path(__file__).parents[1]


def seed() -> str:
    return str(seed_for(1, "a", 2))


def pocket_models_and_tokens() -> str:
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


def saved_adapter() -> dict[str, str]:
    with tempfile.TemporaryDirectory() as folder:
        save_adapter(Path(folder), {"a.lora_A.weight": torch.ones(2, 2)}, Sd3AdapterConfig())
        return {path.name: path.read_bytes().hex() for path in Path(folder).iterdir()}


COMPUTED = {each.__name__: each for each in (seed, pocket_models_and_tokens, saved_adapter)}


@pytest.fixture(scope="module")
def elsewhere() -> dict[str, object]:
    """What one other process computes; its imports take most of the time."""
    program = "import json; from tests.test_other_process import COMPUTED; "
    program += "print(json.dumps({name: each() for name, each in COMPUTED.items()}))"
    finished = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        # The hash seed of this process is random.
        env={"PYTHONHASHSEED": "1", "PATH": "", "OMP_NUM_THREADS": "1"},
    )
    computed: dict[str, object] = json.loads(finished.stdout.splitlines()[-1])
    return computed


@pytest.mark.parametrize("name", COMPUTED)
def test_another_process_computes_the_same(name: str, elsewhere: dict[str, object]) -> None:
    assert elsewhere[name] == COMPUTED[name]()
