import pytest

from advgrpo.config import Weights
from advgrpo.tasks.adapters import parse_adapter

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
def test_locations_of_adapters_are_parsed(text: str, place: Weights) -> None:
    assert parse_adapter(text) == place
