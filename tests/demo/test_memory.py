import subprocess
import sys

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
