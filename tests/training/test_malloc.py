"""Settings of the C library's allocator."""

import subprocess
import sys

import pytest

from model.home import ROOT

FREES_A_LOT = """
import ctypes, sys
from pathlib import Path
if sys.argv[1] == "keep":
    from model.training.malloc import keep_freed_memory
    keep_freed_memory()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
size = 16 * 2**20
blocks = [libc.malloc(size) for _ in range(8)]
for block in blocks:
    ctypes.memset(block, 1, size)
for block in blocks:
    libc.free(block)
print(int(Path("/proc/self/statm").read_text().split()[1]) * 4096 > 8 * size)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs glibc")
@pytest.mark.parametrize(("mode", "expected"), [("keep", "True"), ("default", "False")])
def test_freed_memory_stays_with_the_process(mode: str, expected: str) -> None:
    command = [sys.executable, "-c", FREES_A_LOT, mode]
    completed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert completed.stdout.strip() == expected
