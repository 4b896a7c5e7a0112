"""How texts are compared where only their wording counts: width folded, white space removed."""

from __future__ import annotations

import unicodedata


def fold(text: str) -> str:
    """``text`` in Unicode's compatibility form (NFKC: half and full width are one), without any white space."""
    return "".join(unicodedata.normalize("NFKC", text).split())
