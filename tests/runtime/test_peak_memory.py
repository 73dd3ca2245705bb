import sys

import psutil
import pytest

from advgrpo.runtime.peak_memory import peak_memory_mib


def test_the_peak_is_in_mib_on_linux_and_on_macos(monkeypatch: pytest.MonkeyPatch) -> None:
    now = psutil.Process().memory_info().rss / 2**20
    peak = peak_memory_mib()
    assert now * 0.5 < peak
    assert peak < now * 20
    assert peak_memory_mib(with_children=True) >= peak
    # There the system counts bytes.
    monkeypatch.setattr(sys, "platform", "darwin")
    assert peak_memory_mib() == pytest.approx(peak / 1024, rel=0.1)
