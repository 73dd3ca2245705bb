import pytest
from pydantic import ValidationError

from advgrpo.config import Weights

COMMIT = "0123456789" * 4


@pytest.mark.parametrize("revision", [None, "main", "abc123"])
def test_a_hub_model_must_be_pinned_to_a_commit(revision: str | None) -> None:
    with pytest.raises(ValidationError, match="is not pinned to a commit"):
        Weights(location="hub://owner/name", revision=revision)
    assert Weights(location="hub://owner/name", revision=COMMIT).revision == COMMIT


@pytest.mark.parametrize("location", ["/models/name", "s3://bucket/name", "package://a.b/name"])
def test_only_a_hub_has_revisions(location: str) -> None:
    with pytest.raises(ValidationError, match="has no revisions"):
        Weights(location=location, revision=COMMIT)
