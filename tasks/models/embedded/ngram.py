"""Baseline and measurement: bits per character of held-out text, by a 5-gram model and by the trained model.

    WEITIAO_SHARED=/path/to/shared python -m tasks.models.embedded.ngram [--model FOLDER]

Both see the same tokens of the same dialogues and are scored on the same positions: the contents of all
turns, but not the role tokens, the stop token or the line break after a role. A character without a token of
its own is several byte tokens; its bits are the sum over them, and the divisor counts characters, not tokens.

Source: Chen and Goodman, "An Empirical Study of Smoothing Techniques for Language Modeling", 1998,
interpolated modified Kneser-Ney (three discounts per order).
"""

import argparse
import json
import logging
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tasks.models.embedded import FOLDER
from tasks.models.embedded.corpus import Dialogue, read_dialogues
from tasks.models.embedded.rendering import Renderer
from tasks.models.embedded.vocabulary import ROLES

logger = logging.getLogger(__name__)

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


class KneserNey:
    """Interpolated modified Kneser-Ney over token ids; n-grams are numbers in base `size`, kept sorted."""

    def __init__(self, documents: list[list[int]], size: int, order: int = 5) -> None:
        if size**order >= 2**63:
            raise ValueError(f"{size} tokens to the power of {order} do not fit into 64 bits")
        self.size, self.order = size, order
        grams, counts = self._counts(documents, order)
        # tables[n]: sorted n-grams of length n + 1, their counts, contexts' totals and back-off weights.
        self.tables: list[tuple[Integers, Floats, Integers, Floats, Floats]] = []
        for n in range(order, 0, -1):
            self.tables.append(self._table(grams, counts))
            if n > 1:
                # Lower orders count the different tokens in front (continuation counts), not occurrences.
                grams, repeats = np.unique(grams % size ** (n - 1), return_counts=True)
                counts = repeats.astype(np.float64)
        self.tables.reverse()

    def _counts(self, documents: list[list[int]], order: int) -> tuple[Integers, Floats]:
        parts = [self._windows(document)[:, order - 1] for document in documents]
        grams, counts = np.unique(np.concatenate(parts), return_counts=True)
        return grams, counts.astype(np.float64)

    def _windows(self, document: list[int]) -> Integers:
        """Numbers of the 1-gram ... `order`-gram that end at every position. Shape: (s, order)."""
        padded = np.concatenate([np.zeros(self.order - 1, dtype=np.int64), np.asarray(document, dtype=np.int64)])
        columns = np.zeros((len(document), self.order), dtype=np.int64)
        for n in range(self.order):
            shifted = padded[self.order - 1 - n : len(padded) - n]
            columns[:, n] = shifted * self.size**n + (columns[:, n - 1] if n else 0)
        return columns

    def _table(self, grams: Integers, counts: Floats) -> tuple[Integers, Floats, Integers, Floats, Floats]:
        ones, twos, threes, fours = (float(np.sum(counts == c)) for c in (1, 2, 3, 4))
        y = ones / max(ones + 2 * twos, 1.0)
        steps = (
            1 - 2 * y * twos / max(ones, 1),
            2 - 3 * y * threes / max(twos, 1),
            3 - 4 * y * fours / max(threes, 1),
        )
        discount = np.select([counts == 1, counts == 2], steps[:2], steps[2]).clip(0.1, counts)
        contexts, starts = np.unique(grams // self.size, return_index=True)
        totals = np.add.reduceat(counts, starts)
        backoff = np.add.reduceat(discount, starts) / totals
        return grams, counts - discount, contexts, totals, backoff

    def bits(self, document: list[int]) -> Floats:
        """Bits of every token given the tokens before it. Shape: (s,)."""
        probability = np.full(len(document), 1.0 / self.size)
        windows = self._windows(document)
        for n, (grams, discounted, contexts, totals, backoff) in enumerate(self.tables):
            own = np.searchsorted(grams, windows[:, n]).clip(max=len(grams) - 1)
            seen = np.where(grams[own] == windows[:, n], discounted[own], 0.0)
            context = windows[:, n] // self.size
            place = np.searchsorted(contexts, context).clip(max=len(contexts) - 1)
            known = contexts[place] == context
            better = seen / totals[place] + backoff[place] * probability
            probability = np.where(known, better, probability)
        result: Floats = -np.log2(probability)
        return result


def content_positions(renderer: Renderer, dialogue: Dialogue) -> tuple[list[int], list[int], int]:
    """Ids of a dialogue, the positions of its contents, and the number of characters they stand for."""
    ids, _ = renderer.render(dialogue)
    roles = {renderer.special[role] for role in ROLES.values()}
    structure = {i for i, token in enumerate(ids) if token in roles} | {0, 1}
    structure |= {i + 1 for i in structure if i > 1}
    special = set(renderer.special.values())
    positions = [i for i, token in enumerate(ids) if i not in structure and token not in special]
    return ids, positions, sum(len(content) for _, content in dialogue)


def model_bits(folder: Path, documents: list[list[int]], max_tokens: int = 2048) -> list[Floats]:
    """Bits of every token of every document under the trained model, in float32; position 0 counts as 0."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    results: list[Floats] = []
    with torch.no_grad():
        for document in documents:
            ids = torch.tensor([document[:max_tokens]])
            logits = model(input_ids=ids).logits[0, :-1]
            nats = torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="none")
            results.append(np.concatenate([np.zeros(1), nats.numpy().astype(np.float64) / np.log(2)]))
    return results


def without_repeats(held_out: list[Dialogue], training: list[Dialogue], run: int = 25) -> list[Dialogue]:
    """Held-out dialogues that share no `run` characters in a row with the training part.

    The collections repeat stock phrases and whole answers with small changes; a 5-gram model knows them by heart.
    """
    known = {text[i : i + run] for dialogue in training for _, text in dialogue for i in range(len(text) - run + 1)}
    return [
        dialogue
        for dialogue in held_out
        if not any(text[i : i + run] in known for _, text in dialogue for i in range(len(text) - run + 1))
    ]


def measure(folder: Path) -> dict[str, dict[str, float]]:
    """Bits per character under the model and under the 5-gram model, for all held-out dialogues and the fresh ones."""
    renderer = Renderer(AutoTokenizer.from_pretrained(folder))
    training, held_out = read_dialogues()
    size = len(renderer.special) + len(renderer.bytes) + len(renderer.characters)
    baseline = KneserNey([renderer.render(dialogue)[0] for dialogue in training], size)
    results = {}
    for name, dialogues in (("all", held_out), ("without repeats", without_repeats(held_out, training))):
        rows = [row for row in (content_positions(renderer, d) for d in dialogues) if len(row[0]) <= 2048]
        characters = sum(count for _, _, count in rows)
        bits = zip(model_bits(folder, [ids for ids, _, _ in rows]), rows, strict=True)
        results[name] = {
            "documents": len(rows),
            "characters": characters,
            "model": sum(float(b[p].sum()) for b, (_, p, _) in bits) / characters,
            "5-gram": sum(float(baseline.bits(ids)[p].sum()) for ids, p, _ in rows) / characters,
        }
    return results


def main() -> None:
    """Print the two numbers as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=FOLDER, help="folder of the exported model")
    print(json.dumps(measure(parser.parse_args().model)))


if __name__ == "__main__":
    main()
