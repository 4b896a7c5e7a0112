"""The exercises of the embedded model: kinds, their shares, and dialogues chained from several of them.

They teach generic skills only (copying, recall, extraction, choosing, comparing, stopping). The instruction
wordings and label sets of the data sets people fine-tune on are left out on purpose: fine-tuning has to show
its effect.
"""

from collections.abc import Callable, Mapping

from tasks.models.embedded.choice_exercises import choose, closest_term, same_meaning
from tasks.models.embedded.corpus import Dialogue
from tasks.models.embedded.extraction_exercises import entities, triples
from tasks.models.embedded.lookup_exercises import copy, list_item, recall, repeat
from tasks.models.embedded.spans import Spans
from tasks.models.embedded.writing_exercises import describe, small_talk

KINDS: dict[str, Callable[[Spans], Dialogue]] = {
    "repeat": repeat,
    "copy": copy,
    "list": list_item,
    "recall": recall,
    "triples": triples,
    "entities": entities,
    "choose": choose,
    "same": same_meaning,
    "closest": closest_term,
    "describe": describe,
    "talk": small_talk,
}


def make_exercise(spans: Spans, shares: Mapping[str, float], chain: float = 0.2) -> tuple[str, Dialogue]:
    """One exercise as (kind, dialogue).

    With probability `chain` a second exercise of the same kind follows in the same dialogue: the model also
    learns to end a turn with the next role token, and to use a worked example above.
    """
    kinds = list(shares)
    kind = spans.rng.choices(kinds, [shares[name] for name in kinds])[0]
    dialogue = KINDS[kind](spans)
    if spans.rng.random() < chain and dialogue[0][0] != "system":
        dialogue = dialogue + KINDS[kind](spans)
    return kind, dialogue
