"""Chinese-LLaMA and Chinese-Alpaca (also -Plus): one or two LoRA adapters with a larger vocabulary merged into LLaMA.

Every adapter in turn replaces the embeddings and the output layer by its full copies, which have a row for each token
of its own tokenizer, and adds its update to the linear layers; the last adapter's tokenizer is kept. As in the official
merge the update is computed in float32 and the sum is rounded to the base's type after each adapter. Works one tensor
at a time. Changes nothing in the base's folder.

Shapes: i input features, o output features, v vocabulary, d model width.
Source: scripts/merge_llama_with_chinese_lora_low_mem.py of ymcui/Chinese-LLaMA-Alpaca.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tasks.errors import ModelError, Stopped
from tasks.files import write_atomic
from tasks.models import families, resolving
from tasks.models.adapters import peft_files
from tasks.models.adapters.peft_files import Adapter
from tasks.models.families import Layout
from tasks.models.importing import conversion, tensors, verification
from tasks.models.importing.tensors import Slot
from tasks.models.tokenizers import sentencepiece

EMBEDDINGS = ("model.embed_tokens.weight", "lm_head.weight")
#: The token that Chinese-Alpaca's tokenizer has and Chinese-LLaMA's has not.
_ALPACA_PAD = "[PAD]"
#: One adapter, and how a tensor of it is read.
Opened = tuple[Adapter, Callable[[Slot], Any]]


def merge(
    base: Path,
    adapters: Sequence[Path],
    target: Path,
    *,
    template: str = "auto",
    progress: Callable[[int, int], None] = lambda done, total: None,
    stopping: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """Write the merged model, its tokenizer and its configuration into ``target``.

    Args:
        base: LLaMA in Hugging Face's form, safetensors or .bin.
        adapters: folders of one or two adapters, in the order in which they were trained.
        target: an empty folder.
        template: layout of dialogues; "auto": chinese_alpaca where the tokenizer has its [PAD], "none": plain text.
        progress: called with the tensors done and all of them.
        stopping: asked between tensors; true raises Stopped.

    Raises:
        ModelError: the parts do not belong together; names the file.
    """
    config = _base_config(base)
    given = [peft_files.read(folder) for folder in adapters]
    vocabularies, tokenizer = _tokenizers(given, target, int(config["vocab_size"]))
    written = _config(config, vocabularies[-1], tokenizer, template)
    files = resolving.weight_files(base)
    plan = _plan(base, files, given, vocabularies)
    _check_complete(base, plan, written)
    with ExitStack() as stack:
        opened = [(adapter, stack.enter_context(adapter.opened())) for adapter in given]
        _write(plan, opened, target, progress, stopping)
    _write_configuration(base, written, target)
    layout = Layout.from_json(written[families.CONFIG_KEY])
    verification.verify(target, layout)
    return {
        "vocabulary": [int(config["vocab_size"]), *vocabularies],
        "updated": [len(adapter.pairs) for adapter in given],
        "replaced": [sorted(adapter.copies) for adapter in given],
        "layout": layout.to_json(),
    }


def _base_config(base: Path) -> dict[str, Any]:
    if not (base / "config.json").is_file():
        found = "original LLaMA weights" if any(base.glob("consolidated*.pth")) else "no config.json"
        raise ModelError(f"base={base}: {found}: LLaMA is needed in Hugging Face's form (config.json and weights)")
    config = resolving.read_json(base / "config.json")
    for key, wanted in (("model_type", "llama"), ("tie_word_embeddings", False)):
        if config.get(key, wanted) != wanted:
            raise ModelError(f"{base / 'config.json'}: {key}={config[key]!r}: the base must be LLaMA, with {wanted!r}")
    if not isinstance(config.get("vocab_size"), int):
        raise ModelError(f"{base / 'config.json'}: vocab_size={config.get('vocab_size')!r}: must be a number")
    return config


def _tokenizers(adapters: Sequence[Adapter], target: Path, vocabulary: int) -> tuple[list[int], Any]:
    """The tokens of each adapter's tokenizer, and the last one, written into ``target``.

    Raises:
        ModelError: a tokenizer is smaller than the model it would belong to, or than its adapter's embeddings.
    """
    sizes: list[int] = []
    tokenizer: Any = None
    for number, adapter in enumerate(adapters, 1):
        with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
            folder = target if number == len(adapters) else Path(scratch)
            sentencepiece.write(adapter.folder, folder)
            tokenizer = sentencepiece.load(folder)
        before, size = sizes[-1] if sizes else vocabulary, len(tokenizer)
        if size < before:
            who = f"that of adapter {number - 1}" if sizes else "the base model"
            hint = "; the order is LLaMA's adapter, then Alpaca's" if sizes else ""
            raise ModelError(f"{adapter.folder}: its tokenizer has {size} tokens, fewer than {who} ({before}){hint}")
        for name in EMBEDDINGS:
            rows = adapter.copies[name].shape[0] if name in adapter.copies else None
            if rows is None and size != before:
                raise ModelError(
                    f"{adapter.weights}: no full copy of {name}, although its tokenizer has {size} tokens and "
                    f"the model {before}: the new tokens would have no meaning"
                )
            if rows is not None and rows != size:
                raise ModelError(
                    f"{adapter.weights}: {name} has {rows} rows, the tokenizer beside it {size} tokens: "
                    "one of the two belongs to another adapter"
                )
        sizes.append(size)
    return sizes, tokenizer


def _plan(
    base: Path, files: Sequence[Path], adapters: Sequence[Adapter], vocabularies: Sequence[int]
) -> list[tuple[Path, list[Slot]]]:
    """Each file of the base with the tensors that are made of it.

    Raises:
        ModelError: an adapter names a layer that the base lacks, or one of another shape.
    """
    plan: list[tuple[Path, list[Slot]]] = []
    shapes: dict[str, tuple[int, ...]] = {}
    for file in files:
        tensors.check(file)
        slots = [slot for slot in tensors.slots(file) if not slot.name.endswith(peft_files.COMPUTED)]
        shapes |= {slot.name: slot.shape for slot in slots}
        plan.append((file, slots))
    for adapter in adapters:
        _check_fits(base, adapter, shapes)
    grown = [
        (file, [Slot(s.name, (vocabularies[-1], *s.shape[1:]), s.dtype) if s.name in EMBEDDINGS else s for s in slots])
        for file, slots in plan
    ]
    return [(file, slots) for file, slots in grown if slots]


def _check_fits(base: Path, adapter: Adapter, shapes: Mapping[str, tuple[int, ...]]) -> None:
    wanted: dict[str, tuple[int, ...]] = {name: slot.shape for name, slot in adapter.copies.items()}
    wanted |= {f"{module}.weight": adapter.delta_shape(module) for module in adapter.pairs}
    for name, shape in wanted.items():
        if name not in shapes:
            raise ModelError(f"{adapter.weights}: it changes {name}, which {base} does not have: another architecture")
        free = 1 if name in EMBEDDINGS else 0  # rows were compared with the tokenizer
        if shape[free:] != shapes[name][free:]:
            raise ModelError(
                f"{adapter.weights}: {name} needs shape {shape}, {base} has {shapes[name]}: "
                "a base of another size (7B and 13B do not mix)"
            )


def _check_complete(base: Path, plan: Sequence[tuple[Path, list[Slot]]], config: Mapping[str, Any]) -> None:
    values = {key: value for key, value in config.items() if key not in ("architectures", families.CONFIG_KEY)}
    wanted = {name: tuple(tensor.shape) for name, tensor in conversion.skeleton(values).state_dict().items()}
    made = {slot.name: slot.shape for _, slots in plan for slot in slots}
    for name in sorted(wanted.keys() | made.keys()):
        if wanted.get(name) != made.get(name):
            raise ModelError(
                f"{base}: {name} has shape {made.get(name)}, its config.json asks for {wanted.get(name)}: "
                "a shard is missing, or config.json belongs to another model"
            )


def _write(
    plan: Sequence[tuple[Path, list[Slot]]],
    adapters: Sequence[Opened],
    target: Path,
    progress: Callable[[int, int], None],
    stopping: Callable[[], bool],
) -> None:
    total, done = sum(len(slots) for _, slots in plan), 0
    names = [f"model-{i:05d}-of-{len(plan):05d}.safetensors" for i in range(1, len(plan) + 1)]
    names = ["model.safetensors"] if len(plan) == 1 else names

    def made(file: Path, slots: Sequence[Slot]) -> Iterator[tuple[str, Any]]:
        nonlocal done
        with tensors.opened(file) as read:
            for slot in slots:
                if stopping():
                    raise Stopped("convert: stopped by a signal; run the same command again, it starts anew")
                yield slot.name, _merged(slot.name, read(slot.name), adapters)
                done += 1
                progress(done, total)

    for name, (file, slots) in zip(names, plan, strict=True):
        tensors.write(target / name, slots, made(file, slots))
    if len(plan) > 1:
        shards = {name: slots for name, (_, slots) in zip(names, plan, strict=True)}
        write_atomic(target / "model.safetensors.index.json", tensors.index(shards))


def _merged(name: str, weight: Any, adapters: Sequence[Opened]) -> Any:
    """A tensor of the base with every adapter's copy and update, in the base's type."""
    import torch

    dtype, module = weight.dtype, name.removesuffix(".weight")
    for adapter, read in adapters:
        if name not in adapter.copies and module not in adapter.pairs:
            continue
        if name in adapter.copies:
            weight = read(adapter.copies[name]).to(dtype)
        if module in adapter.pairs:
            weight = (weight.float() + adapter.delta(module, read)).to(dtype)
        if not bool(torch.isfinite(weight).all()):
            raise ModelError(f"{adapter.weights}: {name} holds numbers that are not finite after the merge ({dtype})")
    return weight


def _config(base: Mapping[str, Any], vocabulary: int, tokenizer: Any, template: str) -> dict[str, Any]:
    """The base's configuration with the new vocabulary, and the tokenizer's own control tokens."""
    chosen = None if template == "none" else template
    if template == "auto":
        chosen = "chinese_alpaca" if _ALPACA_PAD in tokenizer.get_vocab() else None
    own = {
        key: getattr(tokenizer, key)
        for key in ("bos_token_id", "eos_token_id", "pad_token_id")
        if getattr(tokenizer, key) is not None
    }
    pad = base.get("pad_token_id")
    kept = {"pad_token_id": pad if isinstance(pad, int) and 0 <= pad < vocabulary else None}
    return {
        **{key: value for key, value in base.items() if key not in ("_name_or_path", "auto_map")},
        **kept,
        **own,
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": vocabulary,
        families.CONFIG_KEY: Layout("llama", chosen).to_json(),
    }


def _write_configuration(base: Path, config: Mapping[str, Any], target: Path) -> None:
    """generation_config.json with the same control tokens, and config.json last, so that half a folder is no model."""
    file = base / "generation_config.json"
    generation = resolving.read_json(file) if file.is_file() else {}
    generation |= {key: value for key, value in config.items() if key.endswith("_token_id") and value is not None}
    write_atomic(target / file.name, json.dumps(generation, indent=1))
    write_atomic(target / "config.json", json.dumps(config, ensure_ascii=False, indent=1))
