import importlib.util
from pathlib import Path

import pytest
import torch

from advgrpo.errors import ConfigError
from advgrpo.models.policies.compilation import check_compiler, compiler_errors


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


@pytest.mark.parametrize(("on_gpu", "missing"), [(False, r"g\+\+"), (True, "gcc")])
def test_a_named_backend_without_its_compiler_is_refused(
    on_gpu: bool, missing: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    for variable in ("CC", "CXX"):
        monkeypatch.delenv(variable, raising=False)
    for backend in ("auto", "none", "eager"):
        check_compiler(backend, on_gpu=on_gpu)
    with pytest.raises(ConfigError, match=f"training.compile=inductor: .*{missing}"):
        check_compiler("inductor", on_gpu=on_gpu)
    for name in ("gcc", "g++"):
        (tmp_path / name).touch(mode=0o755)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: object())
    check_compiler("inductor", on_gpu=on_gpu)
