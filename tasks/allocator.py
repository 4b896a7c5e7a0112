"""Which memory allocator a worker uses on a CPU.

torch asks for aligned memory, and glibc (2.36 at least) hardly ever gives the hole that a freed aligned block left to
the next one of its size: its heap was up to five times what was in use (1,132 of 187 MiB, LoRA with full
checkpointing). mimalloc has no such holes, and was as fast or a little faster. Returning
blocks to the system at once (MALLOC_MMAP_THRESHOLD_) keeps glibc small too, but took 40 % longer.

It is used where it is installed (the Linux wheel ``cmeel-mimalloc`` holds the library and nothing else).
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

_LIBRARY = "cmeel.prefix/lib/libmimalloc.so"
#: Milliseconds before a freed page goes back to the system: longer than between two layers, shorter than a pause.
_PURGE_DELAY_MS = "1000"


def library() -> Path | None:
    """mimalloc's shared library, if it is installed beside this project's packages."""
    if sys.platform != "linux":
        return None
    places = (Path(place) / _LIBRARY for place in sys.path if place)
    return next((place for place in places if place.is_file()), None)


def variables() -> dict[str, str]:
    """The environment with which a worker uses it; nothing where it is missing or the user preloads something."""
    found = library()
    if found is None or os.environ.get("LD_PRELOAD"):
        return {}
    return {"LD_PRELOAD": str(found), "MIMALLOC_PURGE_DELAY": os.environ.get("MIMALLOC_PURGE_DELAY", _PURGE_DELAY_MS)}


def name() -> str:
    """ "mimalloc" where workers of this machine use it, else "system"."""
    preloaded = os.environ.get("LD_PRELOAD", "")
    return "mimalloc" if variables() or "mimalloc" in preloaded else "system"
