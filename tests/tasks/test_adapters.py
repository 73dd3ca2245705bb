from pathlib import Path

import pytest

from advgrpo.config import AdapterConfig, Weights
from advgrpo.policy.saved_adapter import PEFT_SETTINGS, PEFT_WEIGHTS
from advgrpo.tasks.adapters import adapter_place, initial_adapter_digest

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("runs/adapter", Weights(location="runs/adapter")),
        ("s3://bucket/a/DINO", Weights(location="s3://bucket/a/DINO")),
        (f"hub://owner/name@{COMMIT}", Weights(location="hub://owner/name", revision=COMMIT)),
        (
            f"hub://owner/name/DINO@{COMMIT}",
            Weights(location="hub://owner/name", subfolder="DINO", revision=COMMIT),
        ),
        (
            f"hub://owner/name/checkpoints/9/lora@{COMMIT}",
            Weights(location="hub://owner/name", subfolder="checkpoints/9/lora", revision=COMMIT),
        ),
    ],
)
def test_an_adapter_is_named_by_one_text(text: str, place: Weights) -> None:
    assert adapter_place(text) == place


def test_another_adapter_at_the_same_place_is_told_apart(tmp_path: Path) -> None:
    config = AdapterConfig(initial_adapter=Weights(location=str(tmp_path)))
    (tmp_path / PEFT_SETTINGS).write_text("{}", encoding="utf-8")
    digests = []
    for content in (b"one", b"another"):
        (tmp_path / PEFT_WEIGHTS).write_bytes(content)
        digests.append(initial_adapter_digest(config))
    assert len({"", *digests}) == 3
    assert initial_adapter_digest(AdapterConfig()) == ""
