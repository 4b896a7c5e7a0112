"""What a training run will need on its device, and how it is cut so that it fits: micro-batch, FLOPs, time, disk.

Works on a model's outline (tasks.models.outline); nothing is loaded and torch is not imported.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tasks import allocator
from tasks.errors import ConfigError, ResourceError
from tasks.models.outline import Outline
from tasks.training import memory
from tasks.training.memory import MemoryEstimate, Setting
from tasks.training.trainable import trained

#: Share of a device's memory that a run is planned for: the rest is other programs', and the estimate's own error.
_USABLE = {"cpu": 0.8, "cuda": 0.95}
#: Tokens at once beyond which a larger micro-batch is taken to be larger only: the matrices are long enough.
_ENOUGH_TOKENS = {"cpu": 8192, "cuda": 65536}
_GIB = 1 << 30
#: Half-precision matrix products of a GPU in 10^12 FLOP/s, by a part of its name; dense, as published.
_GPU_RATES = {
    "H200": 989, "H100": 989, "H800": 989, "H20": 148, "A100": 312, "A800": 312, "L40S": 362, "L20": 120, "L4": 121,
    "A6000": 155, "A40": 150, "A10": 125, "V100": 112, "T4": 65, "5090": 210, "4090": 165, "3090": 71, "3080": 60,
}  # fmt: skip
#: Share of a published GPU rate, and float32 FLOP/s of one CPU core, that a training step is assumed to reach.
_ASSUMED_SHARE = 0.4
_ASSUMED_CORE = 25e9


@dataclass(frozen=True)
class Run:
    """What is known of a run before it starts.

    Attributes:
        outline: of the model; method: the keys of its configuration; training, hardware: their sections.
        longest: tokens of the longest row; reply: of the longest learned part, None where it is not known.
        device, precision: as resolved; quantization: of the base.
        available: bytes of the device's memory.
        packed: whether rows are packed; padded rows take as much where all are of one length.
    """

    outline: Outline
    method: Mapping[str, Any]
    training: Any
    hardware: Any
    longest: int
    device: str
    precision: str
    quantization: str = "none"
    available: int = 0
    reply: int | None = None

    @property
    def usable(self) -> int:
        return int(self.available * _USABLE[self.device])

    @property
    def world(self) -> int:
        return int(getattr(self.hardware, "world", self.hardware.processes))

    @property
    def share(self) -> int:
        """Rows of a step that one process computes, together or one after the other."""
        return -(-int(self.training.batch_size) // self.world)

    def estimate(self, tokens: int) -> MemoryEstimate:
        """Memory of one process that computes ``tokens`` at once, all rows of the longest length."""
        rows = max(1, tokens // self.longest)
        setting = Setting(
            tokens=max(tokens, self.longest),
            length=self.longest,
            learned=None if self.reply is None else rows * self.reply,
            precision=self.precision,
            quantization=self.quantization,
            checkpointing=mode(self.training.gradient_checkpointing),
            optimizer=getattr(self.training, "optimizer", "adamw"),
            strategy=getattr(self.hardware, "strategy", "ddp"),
            offload=bool(getattr(self.hardware, "offload", False)),
            processes=self.world,
            device=self.device,
            packed=getattr(self.training, "packing", "auto") != "off",
            accumulates=tokens < self.share * self.longest,
            allocator=allocator.name(),
        )
        return memory.estimate(self.outline, self.method, setting)

    def fits(self, tokens: int) -> bool:
        return self.estimate(tokens).needed <= self.usable


@dataclass(frozen=True)
class MicroBatch:
    """What a process computes at once: at most ``rows`` rows and ``tokens`` tokens, in which the estimate holds."""

    rows: int
    tokens: int
    memory: MemoryEstimate

    def to_json(self) -> dict[str, int]:
        """The job's ``micro_batch``."""
        return {"rows": self.rows, "tokens": self.tokens}


def mode(gradient_checkpointing: Any) -> str:
    """The name of a checkpointing mode; true and false are "full" and "none"."""
    return {True: "full", False: "none"}.get(gradient_checkpointing, str(gradient_checkpointing))


def choose_micro_batch(run: Run) -> MicroBatch:
    """The largest micro-batch that fits the device, within what the configuration says.

    The choice depends on the device's whole memory, not on what is free now, so that a resumed run makes the same.

    Raises:
        ConfigError: a configured micro-batch is too large; names the largest that is not.
        ResourceError: not even one row fits; names settings that would.
    """
    rows = min(run.training.micro_batch_size or run.share, run.share)
    wanted = rows * run.longest
    limit = getattr(run.training, "micro_batch_tokens", None)
    if limit is not None:
        wanted = min(wanted, max(limit, run.longest))
    elif run.training.micro_batch_size is None:
        wanted = min(wanted, max(_ENOUGH_TOKENS[run.device], run.longest))
    if run.fits(wanted):
        return MicroBatch(rows, wanted, run.estimate(wanted))
    if not run.fits(run.longest):
        raise ResourceError(_refusal(run))
    most = _most_tokens(run, run.longest, wanted)
    if limit is not None:
        raise ConfigError(
            f"training.micro_batch_tokens={limit}: about {_gib(run.estimate(wanted).needed)} needed, "
            f"{_gib(run.usable)} usable; at most {most}, or null for as many as fit"
        )
    if run.training.micro_batch_size is not None:
        most_rows = most // run.longest
        raise ConfigError(
            f"training.micro_batch_size={rows}: {rows} rows of {run.longest} tokens need about "
            f"{_gib(run.estimate(wanted).needed)}, {_gib(run.usable)} of the {run.device}'s {_gib(run.available)} are "
            f"usable; at most {most_rows}, or null for as many as fit (training.batch_size stays "
            f"{run.training.batch_size})"
        )
    return MicroBatch(rows, most, run.estimate(most))


def _most_tokens(run: Run, low: int, high: int) -> int:
    """The largest number of tokens between one that fits and one that does not."""
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if run.fits(middle) else (low, middle)
    return low


# --- refusals -------------------------------------------------------------------------------------------------------


def _refusal(run: Run) -> str:
    """Why one row does not fit, and the nearest settings with which it would: one of them, else several together."""
    needed = run.estimate(run.longest)
    parts = {
        k: v for k, v in needed.components().items() if k not in ("peak", "loading", "reserve") and v >= _GIB // 20
    }
    largest = ", ".join(f"{name} {v / _GIB:.1f}" for name, v in sorted(parts.items(), key=lambda item: -item[1]))
    found = [text for text, changed in _changes(run) if changed.fits(changed.longest)]
    if not found:
        found = [text for text, changed in _together(run) if changed.fits(changed.longest)][:1]
    advice = (
        f"what would fit: {'; or '.join(found[:3])}" if found else "no setting of this model fits: take a smaller one"
    )
    return (
        f"training does not fit: one row of {run.longest} tokens needs about {_gib(needed.needed)} ({largest}), "
        f"{_gib(run.usable)} of the {run.device}'s {_gib(run.available)} are usable; {advice}"
    )


def _changes(run: Run) -> Iterator[tuple[str, Run]]:
    """Single settings that lower memory, the least change of the result first; each with the run that it makes."""
    if mode(run.training.gradient_checkpointing) != "full":
        yield "training.gradient_checkpointing=full", _with(run, gradient_checkpointing="full")
    if run.method["name"] in ("full", "freeze") and getattr(run.training, "optimizer", None) == "adamw":
        yield "training.optimizer=adamw_8bit", _with(run, optimizer="adamw_8bit")
    if run.world > 1 and getattr(run.hardware, "strategy", "zero3") == "ddp" and run.device == "cuda":
        zero3 = run.hardware.model_copy(update={"strategy": "zero3"})
        yield "hardware.strategy=zero3", replace(run, hardware=zero3)
    shorter = _longest_that_fits(run)
    if shorter is not None:
        yield (
            f"rows of at most {shorter} tokens (tokenization.max_prompt_tokens, max_reply_tokens)",
            replace(run, longest=shorter, reply=None if run.reply is None else min(run.reply, shorter)),
        )
    if run.method["name"] in ("full", "freeze"):
        yield "method=lora", replace(run, method=_LORA)
    elif run.quantization == "none" and run.device == "cuda":
        yield _quantized(run.method["name"]), replace(run, quantization="nf4")


#: LoRA with its defaults, for a refusal's advice.
_LORA = {"name": "lora", "r": 8, "lora_dropout": 0.1, "target_modules": "all-linear"}


def _quantized(method: str) -> str:
    """How the user asks for a base in 4 bits; the group's qlora sets it along with the method."""
    return "method=qlora" if method == "lora" else "model.quantization=nf4"


def _together(run: Run) -> Iterator[tuple[str, Run]]:
    """Settings that lower memory, one after the other on top of those before."""
    texts, changed = [], run
    if run.method["name"] in ("full", "freeze"):
        texts, changed = ["method=lora"], replace(changed, method=_LORA)
        yield " ".join(texts), changed
    if mode(run.training.gradient_checkpointing) != "full":
        texts, changed = [*texts, "training.gradient_checkpointing=full"], _with(changed, gradient_checkpointing="full")
        yield " ".join(texts), changed
    if run.quantization == "none" and run.device == "cuda":
        texts = [*(text for text in texts if text != "method=lora"), _quantized(changed.method["name"])]
        changed = replace(changed, quantization="nf4")
        yield " ".join(texts), changed
    shorter = _longest_that_fits(changed)
    if shorter is not None:
        yield " ".join([*texts, f"and rows of at most {shorter} tokens"]), replace(changed, longest=shorter)


def _longest_that_fits(run: Run) -> int | None:
    """The longest rows that fit one at a time, in steps of 64; None if less than a quarter of the present ones."""
    least = max(64, run.longest // 4)
    for length in range((run.longest - 1) // 64 * 64, least - 1, -64):
        shorter = replace(run, longest=length)
        if shorter.fits(length):
            return length
    return None


def _with(run: Run, **changes: Any) -> Run:
    return replace(run, training=run.training.model_copy(update=changes))


def _gib(size: float) -> str:
    return f"{size / _GIB:.1f} GiB"


# --- work, time, disk -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Work:
    """FLOPs of training.

    Attributes:
        token: of one token in a row of mean length; learned: of the output layer for one learned token besides.
    """

    token: float
    learned: float

    def of(self, tokens: float, learned: float) -> float:
        return tokens * self.token + learned * self.learned


def work(run: Run, mean_length: float) -> Work:
    """FLOPs a token: 2 a weight forward, 2 for the gradient of its input, 2 for its own, 2 to compute it again.

    Attention within a row costs 2 s a forward for each layer and token (s: row length, a: all heads), causal.
    """
    outline, what = run.outline, trained(run.outline, run.method)
    again = {"none": 0.0, "selective": 0.0, "full": 1.0}[mode(run.training.gradient_checkpointing)]
    first = what.first_layer(outline)
    attention = 2 * outline.heads * outline.head_size * (mean_length + (0 if what.in_text else 2 * what.virtual_tokens))
    total = 0.0
    for n, size in enumerate(outline.active):
        own = sum(math.prod(s) for name, s in outline.layers[n].items() if name in what.own and len(s) > 1)
        backward = 1.0 if n >= first else 0.0
        total += 2 * size * (1 + backward + again * backward) + 2 * own
        total += attention * (1 + 2 * backward + again * backward)
    total += 6 * what.added if not what.virtual_tokens else 0  # updates are matrices as the others are
    head = outline.head or outline.embedding
    passes = 2 + int(head in what.own)
    return Work(total, 2.0 * outline.vocabulary * outline.hidden_size * passes)


def work_of(run: Run, tokens: Mapping[str, int], rows: Mapping[str, int]) -> float:
    """FLOPs of the whole run, from the tokens of the training split ("train", "train_learned") and its rows."""
    share = passes(run, rows["train"])
    mean = tokens["train"] / max(rows["train"], 1)
    return share * work(run, mean).of(tokens["train"], tokens.get("train_learned", tokens["train"]))


def passes(run: Run, rows: int) -> float:
    """How often the run goes over its training rows."""
    steps = run.training.max_steps
    return float(run.training.epochs) if steps is None else steps * int(run.training.batch_size) / max(rows, 1)


@dataclass(frozen=True)
class Rate:
    """FLOP/s that one process is expected to reach, and where that number comes from."""

    flops: float
    source: str


def rate(root: Path, device: str, facts: Mapping[str, Any]) -> Rate:
    """The rate of the newest training run below ``root`` on such a device, else an assumed one."""
    records = sorted(root.glob("train/*/artifact.json"), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in records:
        try:
            result = json.loads((path.parent / "result.json").read_text(encoding="utf-8"))
            ran_on = json.loads((path.parent / "job.json").read_text(encoding="utf-8"))["device"]
            flops = float(result["mfu"]) * float(result["matmul_flops"])
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if ran_on == device and flops > 0:
            return Rate(flops, f"measured by {path.parent.name}")
    if device == "cpu":
        cores = int(facts.get("cpus") or 1)
        return Rate(cores * _ASSUMED_CORE, f"assumed for {cores} CPU cores")
    name = str((facts.get("gpus") or [{}])[0].get("name", "GPU"))
    published = next((r for part, r in _GPU_RATES.items() if part.lower() in name.lower().replace(" ", "")), 100)
    return Rate(published * 1e12 * _ASSUMED_SHARE, f"assumed: {_ASSUMED_SHARE:.0%} of {published} TFLOP/s for {name}")


def duration(run: Run, flops: float, rate: Rate) -> str:
    """One line on how much there is to compute, and how long it takes."""
    seconds = flops / (rate.flops * run.world)
    shown = (
        f"{seconds / 3600:.1f} h"
        if seconds >= 5400
        else f"{seconds / 60:.0f} min"
        if seconds >= 90
        else f"{seconds:.0f} s"
    )
    return f"{flops / 1e12:,.1f} TFLOP, about {shown} at {rate.flops * run.world / 1e9:,.0f} GFLOP/s ({rate.source})"


def described(run: Run, chosen: MicroBatch) -> str:
    """One line on what is computed at once and the memory that it takes."""
    needed = chosen.memory
    return (
        f"longest row {run.longest} tokens, at once {chosen.rows} rows of up to {chosen.tokens:,} tokens: about "
        f"{needed.needed / _GIB:.1f} of {_gib(run.available)} (weights {needed.weights / _GIB:.1f}, "
        f"gradients and optimiser {(needed.gradients + needed.optimizer) / _GIB:.1f}, "
        f"activations {needed.activations / _GIB:.1f})"
    )


def disk_bytes(run: Run) -> int:
    """What checkpoints take: weights of those kept, the best and the one being written; the optimiser of two more."""
    count = trained(run.outline, run.method).parameters(run.outline)
    moments = 8 if getattr(run.training, "optimizer", "adamw") == "adamw" else 2
    return count * (4 * (int(run.training.save_total_limit) + 2) + moments * 3)
