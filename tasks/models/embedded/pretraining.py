"""Pre-training of the embedded model: mixing of the corpus, the loop, checkpoints, measurements and export.

    WEITIAO_SHARED=/path/to/shared python -m tasks.models.embedded.pretraining --out DIR

builds the tokenizer, trains from scratch (or resumes what is in DIR) and exports to DIR/weights. With
`--minutes` the schedule ends by the clock, otherwise by `--tokens`; then one seed gives the same batches.
"""

import argparse
import ctypes
import json
import logging
import random
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import GlmConfig, GlmForCausalLM, PreTrainedTokenizerFast

from tasks.models.embedded.corpus import CorpusMissingError, Dialogue, data_folder, plain_text, read_dialogues
from tasks.models.embedded.exercises import KINDS, make_exercise
from tasks.models.embedded.optimiser import build_optimisers
from tasks.models.embedded.rendering import Renderer, pad
from tasks.models.embedded.spans import Spans
from tasks.models.embedded.vocabulary import (
    MAX_TOKENS,
    PAD,
    STOP_TOKENS,
    build_tokenizer,
    characters,
    save_tokenizer,
)

logger = logging.getLogger(__name__)

Row = tuple[str, list[int], list[bool]]
REAL = "real"
REAL_PER_POOL = 256


@dataclass(frozen=True)
class Phase:
    """A part of the curriculum, up to the fraction `until` of the training.

    Attributes:
        shares: Kinds of exercises and their shares among the exercises.
        real_share: Share of real text among the tokens.
        real_tokens: Longest piece of a real dialogue.
        real_weight: Weight of a target of real text in the loss; exercises have 1, but few targets.
    """

    until: float
    shares: dict[str, float]
    real_share: float
    real_tokens: int
    real_weight: float


ALL_KINDS = {
    "repeat": 0.4, "copy": 0.8, "list": 0.9, "recall": 1.2, "triples": 2.4, "entities": 2.4,
    "choose": 1.9, "same": 1.2, "closest": 1.0, "describe": 0.8, "talk": 0.6,
}  # fmt: skip
# Finding the right span is learnt last, and is what extraction needs most.
RETRIEVAL_KINDS = {
    "repeat": 0.2, "copy": 0.4, "list": 0.9, "recall": 2.2, "triples": 3.0, "entities": 2.4,
    "choose": 2.0, "same": 0.8, "closest": 1.2, "describe": 0.6, "talk": 0.4,
}  # fmt: skip
PHASES = (
    # Copying first: short and dense, so that the circuits for it exist before anything is built on them.
    Phase(0.22, {"repeat": 5, "copy": 3, "list": 1.5, "recall": 2, "triples": 1, "closest": 1}, 0.20, 96, 0.3),
    Phase(0.56, ALL_KINDS, 0.28, 256, 0.6),
    Phase(1.00, RETRIEVAL_KINDS, 0.28, 384, 0.5),
)


@dataclass(frozen=True)
class Settings:
    """What decides the result."""

    out: Path
    tokens: int
    minutes: float | None
    batch_tokens: int
    muon_lr: float
    adam_lr: float
    seed: int
    optimiser: str
    processes: int


@dataclass
class State:
    """Progress of a run; saved with every checkpoint."""

    pool: int = 0
    step: int = 0
    tokens: int = 0
    target_tokens: int = 0
    seconds: float = 0.0


def model_config(vocabulary_size: int, special: dict[str, int]) -> GlmConfig:
    """The shape: 3.9 M parameters, of which 1.15 M are the embedding, tied to the output."""
    return GlmConfig(
        vocab_size=vocabulary_size,
        hidden_size=256,
        intermediate_size=640,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        attention_bias=False,
        attention_dropout=0.0,
        tie_word_embeddings=True,
        max_position_embeddings=MAX_TOKENS,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5},
        pad_token_id=special[PAD],
        eos_token_id=[special[token] for token in STOP_TOKENS],
        bos_token_id=None,
    )


class Corpus:
    """Real dialogues and exercises as pools of batches; pool `k` depends on seed, `k` and phase only."""

    def __init__(
        self, renderer: Renderer, training: list[Dialogue], alphabet: str, seed: int, batch_tokens: int
    ) -> None:
        self.renderer = renderer
        self.training = training
        self.seed = seed
        self.batch_tokens = batch_tokens
        self.spans = Spans(random.Random(seed), alphabet, plain_text(training))

    def pool(self, index: int, phase: Phase) -> list[list[Row]]:
        """Batches of rows of similar length, in random order."""
        rng = random.Random(f"{self.seed}-{index}")
        self.spans.rng = rng
        start = index * REAL_PER_POOL
        # Random cuts: with one length for all, whole batches would be real text only.
        cuts = [rng.randint(phase.real_tokens // 3, phase.real_tokens) for _ in range(REAL_PER_POOL)]
        rows = [self._real(start + i, cut) for i, cut in enumerate(cuts)]
        size = sum(len(ids) for _, ids, _ in rows)
        total = size / phase.real_share
        while size < total:
            kind, dialogue = make_exercise(self.spans, phase.shares)
            ids, targets = self.renderer.render(dialogue)
            rows.append((kind, ids, targets))
            size += len(ids)
        # Within a bucket of 8 tokens the order stays random, so that a batch is not made of one kind only.
        rng.shuffle(rows)
        rows.sort(key=lambda row: len(row[1]) // 8)
        batches = list(self._cut(rows))
        rng.shuffle(batches)
        return batches

    def _real(self, position: int, max_tokens: int) -> Row:
        epoch, index = divmod(position, len(self.training))
        # A stride that shares no divisor with the count visits every dialogue once an epoch, scattered.
        count = len(self.training)
        stride = next(s for s in range(count // 3 + 7 * epoch + self.seed, 2 * count) if _coprime(s, count))
        ids, targets = self.renderer.render(self.training[index * stride % count], everything=True)
        return REAL, ids[:max_tokens], targets[:max_tokens]

    def _cut(self, rows: list[Row]) -> Iterator[list[Row]]:
        batch: list[Row] = []
        for row in rows:
            if batch and (len(batch) + 1) * max(len(row[1]), len(batch[-1][1])) > self.batch_tokens:
                yield batch
                batch = []
            batch.append(row)
        if len(batch) > 4:
            yield batch


def _coprime(a: int, b: int) -> bool:
    while b:
        a, b = b, a % b
    return a == 1


def batch_loss(model: GlmForCausalLM, batch: list[Row], pad_id: int) -> tuple[Tensor, Tensor]:
    """Loss of every target of a batch, and the row of each. Shapes: (targets,), (targets,).

    Only target positions go through the output layer; causal attention ignores the padding on the right.
    """
    ids = torch.tensor(pad([row[1] for row in batch], pad_id))
    targets = torch.tensor(pad([[int(t) for t in row[2]] for row in batch], 0), dtype=torch.bool)[:, 1:]
    hidden: Tensor = model.model(input_ids=ids[:, :-1], use_cache=False).last_hidden_state
    logits = hidden[targets] @ model.model.embed_tokens.weight.T
    losses = nn.functional.cross_entropy(logits, ids[:, 1:][targets], reduction="none")
    return losses, targets.nonzero()[:, 0]


@torch.no_grad()
def held_out_loss(model: GlmForCausalLM, rows: list[Row], pad_id: int) -> float:
    """Nats per target of real rows."""
    losses = [batch_loss(model, rows[i : i + 16], pad_id)[0] for i in range(0, len(rows), 16)]
    return float(torch.cat(losses).mean())


@torch.no_grad()
def answer(model: GlmForCausalLM, renderer: Renderer, dialogues: list[Dialogue], max_new_tokens: int) -> list[str]:
    """Greedy answers to the dialogues' last user turns."""
    prompts = [renderer.prompt(dialogue) for dialogue in dialogues]
    width = max(len(prompt) for prompt in prompts)
    pad_id = renderer.special[PAD]
    ids = torch.tensor([[pad_id] * (width - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    stops = [renderer.special[token] for token in STOP_TOKENS]
    output = model.generate(
        input_ids=ids,
        attention_mask=mask,
        max_new_tokens=max_new_tokens,
        do_sample=False,
        eos_token_id=stops,
        pad_token_id=pad_id,
    )
    names = {index: token for token, index in renderer.characters.items()}
    values = {index: value for value, index in enumerate(renderer.bytes)}
    answers = []
    for row in output[:, width:].tolist():
        data = bytearray()
        for index in row:
            if index in stops:
                break
            data += names[index].encode("utf-8") if index in names else bytes([values.get(index, 63)])
        answers.append(data.decode("utf-8", errors="replace").removeprefix("\n"))
    return answers


def exact_match(model: GlmForCausalLM, renderer: Renderer, spans: Spans, each: int, seed: int) -> dict[str, float]:
    """Share of exactly right greedy answers by kind, on fresh exercises of a seed."""
    model.eval()
    scores = {}
    for kind, make in KINDS.items():
        spans.rng = random.Random(f"evaluation-{seed}-{kind}")
        dialogues = [make(spans) for _ in range(each)]
        longest = max(len(renderer.encode(dialogue[-1][1])) for dialogue in dialogues)
        answers = answer(model, renderer, dialogues, longest + 4)
        scores[kind] = sum(a == d[-1][1] for a, d in zip(answers, dialogues, strict=True)) / each
    model.train()
    return scores


def learning_rate_factor(progress: float, step: int) -> float:
    """Warm-up over 60 steps, constant to 45 % of the training, then linear to a fiftieth."""
    return min(1.0, (step + 1) / 60) * min(1.0, max(0.02, (1.0 - progress) / 0.55))


def save_checkpoint(folder: Path, model: nn.Module, optimisers: list[torch.optim.Optimizer], state: State) -> None:
    """Weights, optimiser tensors and progress; the progress file is replaced last and names the other."""
    tensors = {f"model.{name}": p.detach() for name, p in model.named_parameters()}
    for index, optimiser in enumerate(optimisers):
        for key, values in optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser.{index}.{key}.{name}": value for name, value in values.items()}
    folder.mkdir(parents=True, exist_ok=True)
    name = f"state-{state.step}.safetensors"
    save_file(tensors, folder / name)
    partial = folder / "state.json.partial"
    partial.write_text(json.dumps({"file": name, **vars(state)}), encoding="utf-8")
    partial.replace(folder / "state.json")
    for old in folder.glob("state-*.safetensors"):
        if old.name != name:
            old.unlink()


def load_checkpoint(folder: Path, model: nn.Module, optimisers: list[torch.optim.Optimizer]) -> State:
    """Restore a run, or start one where there is no checkpoint."""
    path = folder / "state.json"
    if not path.is_file():
        return State()
    progress = json.loads(path.read_text(encoding="utf-8"))
    tensors = load_file(folder / progress.pop("file"))
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(tensors[f"model.{name}"])
    for index, optimiser in enumerate(optimisers):
        saved: dict[int, dict[str, Tensor]] = defaultdict(dict)
        for name, value in tensors.items():
            if name.startswith(f"optimiser.{index}."):
                _, _, key, field = name.split(".")
                saved[int(key)][field] = value
        optimiser.load_state_dict({**optimiser.state_dict(), "state": dict(saved)})
    return State(**progress)


def export(model: GlmForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write weights in float16, configuration, generation settings and tokenizer."""
    half = GlmForCausalLM(model.config)
    half.load_state_dict(model.state_dict())
    half = half.to(torch.float16)
    config = half.generation_config
    config.do_sample = False
    config.pad_token_id = model.config.pad_token_id
    config.eos_token_id = model.config.eos_token_id
    config.bos_token_id = None
    half.save_pretrained(folder)
    save_tokenizer(tokenizer, folder)
    for path in folder.iterdir():
        path.chmod(0o644)  # the weights' file is made readable for its owner only


def export_checkpoint(folder: Path, each: int) -> None:
    """Export the newest checkpoint of a run, also while it goes on; measure it on `each` exercises of every kind."""
    training, held_out = read_dialogues()
    tokenizer = build_tokenizer(plain_text(training))
    renderer = Renderer(tokenizer)
    model = GlmForCausalLM(model_config(len(tokenizer), renderer.special))
    state = load_checkpoint(folder, model, [])
    export(model, tokenizer, folder / "weights")
    logger.info("exported after %d tokens", state.tokens)
    if each:
        spans = Spans(random.Random(0), "".join(characters(plain_text(training))), plain_text(held_out))
        logger.info("exact matches %s", json.dumps(exact_match(model, renderer, spans, each, seed=0)))


def keep_freed_memory() -> None:
    """Tell glibc to keep freed blocks: where fresh pages are slow (virtual machines) it doubles the speed."""
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        if hasattr(libc, "mallopt"):
            libc.mallopt(-1, 2_000_000_000)  # M_TRIM_THRESHOLD: never give the top of the heap back
            libc.mallopt(-2, 268_435_456)  # M_TOP_PAD
            libc.mallopt(-4, 0)  # M_MMAP_MAX: no block of its own for large tensors
            libc.mallopt(-8, 1)  # M_ARENA_MAX


def share_gradients(model: nn.Module, seconds: float) -> float:
    """Average the gradients over the processes; gives back the first process's clock, so that all agree."""
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    clock = torch.tensor([seconds if dist.get_rank() == 0 else 0.0])
    flat = torch.cat([*(g.flatten() for g in gradients), clock])
    dist.all_reduce(flat)
    for gradient, mean in zip(gradients, flat[:-1].split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient)).div_(dist.get_world_size())
    return float(flat[-1])


def worker(rank: int, settings: Settings) -> None:
    """One process of the training, with one thread: on a busy machine threads wait for each other."""
    level = logging.INFO if rank == 0 else logging.WARNING
    logging.basicConfig(level=level, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    torch.set_num_threads(1)
    keep_freed_memory()
    if settings.processes > 1:
        rendezvous = (settings.out / "rendezvous").resolve().as_uri()
        dist.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=settings.processes)
    train(settings, rank)
    if settings.processes > 1:
        dist.destroy_process_group()


def train(settings: Settings, rank: int) -> None:
    """Train, or resume, to the end of the schedule, then export."""
    torch.manual_seed(settings.seed)
    training, held_out = read_dialogues()
    text = plain_text(training)
    tokenizer = build_tokenizer(text)
    renderer = Renderer(tokenizer)
    alphabet = "".join(characters(text))
    corpus = Corpus(renderer, training, alphabet, settings.seed, settings.batch_tokens)
    check_spans = Spans(random.Random(0), alphabet, plain_text(held_out))
    check_rows = [(REAL, *(part[:512] for part in renderer.render(d, everything=True))) for d in held_out[:96]]

    pad_id = renderer.special[PAD]
    model = GlmForCausalLM(model_config(len(tokenizer), renderer.special))
    model.train()
    optimisers = build_optimisers(model, settings.muon_lr, settings.adam_lr, settings.optimiser)
    base_rates = [optimiser.param_groups[0]["lr"] for optimiser in optimisers]
    state = load_checkpoint(settings.out, model, optimisers)
    logger.info("%d parameters, %d dialogues, starting at step %d", model.num_parameters(), len(training), state.step)

    started, last_save, sums = time.monotonic() - state.seconds, time.monotonic(), _Sums()
    progress = 0.0
    while True:
        progress = _progress(settings, state)
        if progress >= 1.0:
            break
        phase = next(p for p in PHASES if progress < p.until)
        batches = corpus.pool(state.pool, phase)
        world = settings.processes
        for index in range(0, len(batches) - world + 1, world):
            batch = batches[index + rank]
            progress = _progress(settings, state)
            factor = learning_rate_factor(progress, state.step)
            for optimiser, rate in zip(optimisers, base_rates, strict=True):
                optimiser.param_groups[0]["lr"] = rate * factor
            losses, rows = batch_loss(model, batch, pad_id)
            weights = torch.tensor([phase.real_weight if kind == REAL else 1.0 for kind, _, _ in batch])[rows]
            ((losses * weights).sum() / weights.sum()).backward()
            state.seconds = time.monotonic() - started
            if world > 1:
                state.seconds = share_gradients(model, state.seconds)
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for optimiser in optimisers:
                optimiser.step()
                optimiser.zero_grad()
            state.step += 1
            state.tokens += sum(len(ids) for part in batches[index : index + world] for _, ids, _ in part)
            state.target_tokens += len(losses) * world
            sums.add(batch, losses.detach(), rows)
            if state.step % 25 == 0:
                logger.info("step %d %s", state.step, sums.line(state, progress))
        state.pool += 1
        if rank == 0 and time.monotonic() - last_save > 540:
            save_checkpoint(settings.out, model, optimisers, state)
            scores = exact_match(model, renderer, check_spans, 16, state.step)
            real = held_out_loss(model, check_rows, pad_id)
            logger.info("held out %.3f nats, exact %s", real, " ".join(f"{k}={v:.2f}" for k, v in scores.items()))
            last_save = time.monotonic()
    if rank > 0:
        return
    save_checkpoint(settings.out, model, optimisers, state)
    export(model, tokenizer, settings.out / "weights")
    logger.info("exported after %d tokens in %.0f s", state.tokens, state.seconds)


def _progress(settings: Settings, state: State) -> float:
    done = state.tokens / settings.tokens
    return done if settings.minutes is None else max(done, state.seconds / 60 / settings.minutes)


class _Sums:
    """Mean loss by kind since the last line, and the speed."""

    def __init__(self) -> None:
        self.losses: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
        self.mark = (0, time.monotonic())

    def add(self, batch: list[Row], losses: Tensor, rows: Tensor) -> None:
        totals = torch.zeros(len(batch)).index_add_(0, rows, losses).tolist()
        counts = torch.bincount(rows, minlength=len(batch)).tolist()
        for (kind, _, _), total, count in zip(batch, totals, counts, strict=True):
            self.losses[kind][0] += total
            self.losses[kind][1] += count

    def line(self, state: State, progress: float) -> str:
        tokens, then = self.mark
        now = time.monotonic()
        speed = (state.tokens - tokens) / (now - then) if tokens else 0.0
        self.mark = (state.tokens, now)
        kinds = " ".join(f"{kind}={total / max(count, 1):.2f}" for kind, (total, count) in sorted(self.losses.items()))
        self.losses.clear()
        return f"{progress:.1%} {state.tokens / 1e6:.2f}M tokens {speed:.0f}/s {kinds}"


def main() -> int:
    """Command line; 2 where the user's input is at fault."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the checkpoints and the export")
    parser.add_argument("--tokens", type=int, default=20_000_000, help="length of the training")
    parser.add_argument("--minutes", type=float, default=None, help="end by the clock, if that comes first")
    parser.add_argument("--batch-tokens", type=int, default=3072, help="tokens of a step and process, with padding")
    parser.add_argument("--muon-lr", type=float, default=0.02)
    parser.add_argument("--adam-lr", type=float, default=0.004)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--processes", type=int, default=2, help="single-threaded processes that share the work")
    parser.add_argument("--optimiser", choices=("muon", "adamw"), default="muon")
    parser.add_argument("--export", action="store_true", help="only export the newest checkpoint in --out")
    parser.add_argument("--measure", type=int, default=0, help="with --export: exercises of each kind to answer")
    arguments = vars(parser.parse_args())
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    only_export, each = arguments.pop("export"), arguments.pop("measure")
    settings = Settings(**arguments)
    try:
        data_folder()
        if only_export:
            export_checkpoint(settings.out, each)
            return 0
    except CorpusMissingError as error:
        logger.error("%s", error)
        return 2
    settings.out.mkdir(parents=True, exist_ok=True)
    (settings.out / "rendezvous").unlink(missing_ok=True)
    torch.multiprocessing.spawn(worker, args=(settings,), nprocs=settings.processes)
    return 0


if __name__ == "__main__":
    sys.exit(main())
