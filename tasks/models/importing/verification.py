"""Whether an imported model works: it loads, its tokenizer fits it, and it says something about a rendered prompt.

Shapes: s prompt tokens, v vocabulary.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

from tasks.conversation import Message
from tasks.errors import ModelError
from tasks.models import loading, resolving
from tasks.models.families import Layout

#: Larger models are loaded with their first layer only: embedding, one layer and output layer say whether it works.
_WHOLE_BYTES = 1 << 30


def verify(folder: Path, layout: Layout) -> None:
    """Load the model in ``folder`` back and let it answer.

    Raises:
        ModelError: what does not fit.
    """
    import torch

    tokenizer = loading.load_tokenizer(folder)
    vocabulary = resolving.shape_facts(folder)["vocabulary"]
    if len(tokenizer) > vocabulary:
        raise ModelError(
            f"{folder}: the tokenizer has {len(tokenizer)} tokens, the model {vocabulary}: "
            "the tokenizer's file belongs to another model"
        )
    renderer = layout.renderer(tokenizer)
    prompt = renderer.prompt_ids([Message("user", "你好")])
    outside = [i for i in (*prompt, *renderer.stop_ids) if i is None or not 0 <= i < vocabulary]
    if outside:
        raise ModelError(f"{folder}: family {layout.family} uses token {outside[0]}, which the model does not have")
    # not below the folder: what a killed process leaves there would become a part of the model
    with tempfile.TemporaryDirectory(prefix="weitiao-") as scratch:
        model = loading.load_base(_small(folder, Path(scratch)), "cpu", _dtype(folder))
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([prompt])).logits  # [1, s, v]
    if not bool(torch.isfinite(logits.float()).all()):
        raise ModelError(f"{folder}: the model's output is not finite")


def _dtype(folder: Path) -> str:
    """The type of the weights in memory: their own, so that no second copy is made.

    float16 gives way to bfloat16, which is as wide and has the range that models trained in it need.
    """
    config = resolving.read_json(folder / "config.json")
    own = str(config.get("dtype") or config.get("torch_dtype") or "float32")
    return "bfloat16" if own == "float16" else own


def _small(folder: Path, scratch: Path) -> Path:
    """The folder itself, or one with links to the files that hold its first layer."""
    weights = resolving.weight_files(folder)
    if sum(f.stat().st_size for f in weights) <= _WHOLE_BYTES:
        return folder
    config = resolving.read_json(folder / "config.json")
    config["num_hidden_layers"] = 1
    (scratch / "config.json").write_text(json.dumps(config), encoding="utf-8")
    for file in (*weights, *folder.glob("*.index.json")):
        try:
            (scratch / file.name).symlink_to(file.resolve())
        except OSError:  # Windows without the right to link
            shutil.copy2(file, scratch / file.name)
    return scratch
