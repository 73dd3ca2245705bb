import subprocess
import sys
from types import SimpleNamespace

import psutil
import pytest

from advgrpo.demo.memory import MemoryWatch

SIZE_MIB = 200


def test_the_memory_of_children_counts() -> None:
    code = f"block = bytearray({SIZE_MIB} * 2**20); print('up', flush=True); input()"
    with MemoryWatch(seconds_between=0.05) as watch:
        while watch.peak_mib == 0:
            pass
        alone = watch.peak_mib
        with subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as child:
            while watch.peak_mib < alone + SIZE_MIB * 0.9 and child.poll() is None:
                pass
            child.communicate(b"\n")
    assert watch.peak_mib > alone + SIZE_MIB * 0.9


def test_on_systems_without_proportional_set_sizes_unshared_memory_is_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def on_macos(_process: psutil.Process) -> SimpleNamespace:
        return SimpleNamespace(rss=3 * 2**20, uss=2 * 2**20)

    monkeypatch.setattr(psutil, "LINUX", False)
    monkeypatch.setattr(psutil.Process, "memory_full_info", on_macos)
    monkeypatch.setattr(psutil.Process, "children", lambda process, recursive: [process])  # noqa: ARG005
    with MemoryWatch(seconds_between=0.01) as watch:
        pass
    assert watch.peak_mib == 4
