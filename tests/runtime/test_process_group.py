import pytest
import torch.distributed as dist

from advgrpo.errors import RankFailedError
from advgrpo.runtime.process_group import translate_rank_loss


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("[/src/gloo/transport/tcp/pair.cc:553] Connection closed by peer [::1]:1"),
        dist.DistBackendError("NCCL communicator was aborted on rank 3"),
    ],
)
def test_the_loss_of_a_rank_is_a_retryable_error(error: RuntimeError) -> None:
    with (
        pytest.raises(RankFailedError, match="another training process") as caught,
        translate_rank_loss(),
    ):
        raise error
    assert caught.value.exit_code >= 128


def test_other_errors_are_not_translated() -> None:
    with pytest.raises(RuntimeError, match="mat1 and mat2"), translate_rank_loss():
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")
