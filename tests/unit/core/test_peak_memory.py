"""The peak of resident memory, and where its count starts again."""

from __future__ import annotations

import subprocess
import sys

import pytest

_MIB = 1 << 20
_CODE = """
from tasks.worker import peak_resident_bytes, restart_peak_memory
before = peak_resident_bytes()
block = bytearray(b"x" * (300 << 20))
during = peak_resident_bytes()
del block
kept = peak_resident_bytes()
restart_peak_memory()
print(before, during, kept, peak_resident_bytes())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="a resident peak can be restarted on Linux only")
def test_a_peak_stays_until_it_is_restarted() -> None:
    done = subprocess.run([sys.executable, "-c", _CODE], capture_output=True, text=True, check=True)
    before, during, kept, after = map(int, done.stdout.split())
    assert during - before > 250 * _MIB
    assert kept == during or kept > during - 20 * _MIB
    assert after < during - 200 * _MIB
