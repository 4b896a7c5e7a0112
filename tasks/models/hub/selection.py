"""Which files of a model repository are fetched: one copy of the weights, the configuration and the tokenizer.

Repositories often hold the same weights several times (safetensors and .bin, two shardings, Meta's consolidated
files, ONNX, Flax, TensorFlow) and code. Only files at the top level are taken, never code, and .bin weights (pickles,
read with weights_only later) only where the repository has no safetensors.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from tasks.errors import ModelError

_TEXTS = ("*.json", "*.model", "*.txt", "*.jinja")
_TOKENIZERS = ("tokenizer.json", "*.model", "vocab.*")
_INDEX = ".index.json"
#: In the order of preference: kind, the whole in one file, the index of its shards.
_FORMS = (
    (".safetensors", "model.safetensors", "model.safetensors.index.json"),
    (".bin", "pytorch_model.bin", "pytorch_model.bin.index.json"),
)
#: DeepSeek's counts have six digits.
_SHARD = re.compile(r"(model|pytorch_model)-(\d{5,6})-of-(\d{5,6})(\.safetensors|\.bin)")


@dataclass(frozen=True)
class Selection:
    """File names at the top of a repository.

    Attributes:
        texts: configuration, tokenizer, and the index of the chosen weights.
        weights: the chosen copy of the weights; empty where there is none in a known form.
    """

    texts: list[str]
    weights: list[str]


def select(names: Collection[str], read_index: Callable[[str], Collection[str]]) -> Selection:
    """Choose among a repository's files.

    Args:
        names: every path of the repository.
        read_index: the weight files that an index file of that name lists.
    """
    top = sorted(name for name in names if "/" not in name)
    index, weights = None, list[str]()
    for kind, whole, its_index in _FORMS:
        if whole in top:
            weights = [whole]
        elif its_index in top:
            index, weights = its_index, sorted(read_index(its_index))
        else:
            weights = _shards(top, kind)
        if weights:
            break
    # an adapter's configuration beside a model would make transformers apply the adapter
    texts = [n for n in top if any(fnmatch(n, p) for p in _TEXTS) and not n.startswith("adapter_")]
    texts = [n for n in texts if not n.endswith(_INDEX) or n == index]
    return Selection(texts, weights)


def _shards(names: Collection[str], kind: str) -> list[str]:
    """The smallest complete set of shards, where no index tells which they are."""
    sets: dict[tuple[str, str], list[str]] = {}
    for name in sorted(names):
        found = _SHARD.fullmatch(name)
        if found and found[4] == kind:
            sets.setdefault((found[1], found[3]), []).append(name)
    complete = [shards for (_, count), shards in sets.items() if len(shards) == int(count)]
    return min(complete, key=len, default=[])


def lacking(folder: Path) -> list[str]:
    """What a downloaded folder lacks of a model; empty when it is complete. Reads names and the index, no weights."""
    names = {entry.name for entry in folder.iterdir() if entry.is_file()}
    if "config.json" not in names:
        return ["config.json"]
    chosen = select(names, lambda name: indexed(folder / name)).weights
    missing = sorted(set(chosen) - names) if chosen else ["the weights"]
    if not any(fnmatch(name, pattern) for name in names for pattern in _TOKENIZERS):
        missing.append("the tokenizer")
    return missing


def indexed(index: Path) -> set[str]:
    """The weight files that an index file lists.

    Raises:
        ModelError: it is no such index, or names files outside its folder.
    """
    try:
        files = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{index}: not an index of weight files (no weight_map); delete it and run again") from error
    for name in files:
        if not isinstance(name, str) or Path(name).name != name:
            raise ModelError(f"{index}: lists {name!r}, which is no file beside it")
    return files
