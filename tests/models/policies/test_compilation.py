import pytest
import torch

from advgrpo.errors import ConfigError
from advgrpo.models.policies.compilation import compiler_errors


class Doubling(torch.nn.Module):
    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return 2 * values


@pytest.mark.parametrize(
    ("raised", "message"),
    [
        ("No working C++ compiler found in torch._inductor.config.cpp.cxx", "install one"),
        ("shapes beyond me", "shapes beyond me"),
    ],
)
def test_an_error_of_the_compiler_names_the_setting(raised: str, message: str) -> None:
    def backend(_graph: torch.fx.GraphModule, _inputs: list[torch.Tensor]) -> object:
        raise RuntimeError(raised)

    module = Doubling()
    module.compile(backend=backend)
    with pytest.raises(ConfigError, match=r"training\.compile") as error, compiler_errors():
        module(torch.zeros(1, 2))
    assert message in str(error.value)


def test_other_errors_are_not_converted() -> None:
    with pytest.raises(ValueError, match="mine"), compiler_errors():
        raise ValueError("mine")
