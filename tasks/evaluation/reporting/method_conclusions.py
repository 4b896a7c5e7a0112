"""What a comparison of methods allows to say, and what makes its numbers doubtful: sentences out of comparison.json.

A sentence names methods where their seeds are enough for that, else these trained models of them (significance.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tasks.evaluation import significance
from tasks.evaluation.reporting.cautions import about_rows, without_width

BASE = "base"

#: (better, worse) -> whether it is said of the methods.
Won = Mapping[tuple[str, str], bool]


def conclusions(content: Mapping[str, Any]) -> Iterator[str]:
    """The methods beside the base, the winner where there is one, and what the comparison cannot tell."""
    methods = [name for name in content["systems"] if name != BASE]
    won = dict(_won(content["pairs"]))
    yield from _beside_base(methods, won)
    if len(methods) > 1:
        yield _winner(methods, won)
    yield from _seeds(content, methods)
    yield "It holds for this data, base model and settings; no method's learning rate or size was searched."
    yield from (f"Not compared: {what}: {why}" for what, why in content["failed"].items())


def _won(pairs: Sequence[Mapping[str, Any]]) -> Iterator[tuple[tuple[str, str], bool]]:
    for pair in pairs:
        if pair["verdict"] != "not separable":
            sides = (pair["a"], pair["b"]) if pair["verdict"] == "better" else (pair["b"], pair["a"])
            yield sides, pair["about_methods"]


def _beside_base(methods: Sequence[str], won: Won) -> Iterator[str]:
    above = {name: won[name, BASE] for name in methods if (name, BASE) in won}
    below = {name: won[BASE, name] for name in methods if (BASE, name) in won}
    yield f"Better than the untuned base: {_named(above)}." if above else "No method beats the untuned base."
    if below:
        yield f"Worse than the untuned base: {_named(below)}."
    level = [name for name in methods if name not in above and name not in below]
    if level:
        yield f"Not separable from the untuned base: {', '.join(level)}."


def _named(found: Mapping[str, bool]) -> str:
    """Names or pairs: first those that are said of methods, then those of these trained models."""
    methods, models = (", ".join(name for name, about in found.items() if about is wanted) for wanted in (True, False))
    return "; ".join([*([methods] if methods else []), *([f"these trained models of {models}"] if models else [])])


def _winner(methods: Sequence[str], won: Won) -> str:
    for name in methods:
        others = [(name, other) for other in (*methods, BASE) if other != name]
        if all(pair in won for pair in others):
            if all(won[pair] for pair in others):
                return f"{name} is better than every other method and the untuned base."
            return (
                f"These trained models of {name} are better than those of every other method and than the untuned base."
            )
    between = {f"{a} over {b}": about for (a, b), about in sorted(won.items()) if BASE not in (a, b)}
    return f"No single winner; separated pairs: {_named(between) or 'none'}."


def _seeds(content: Mapping[str, Any], methods: Sequence[str]) -> Iterator[str]:
    """How many seeds a claim about methods takes, where one of them has fewer."""
    seeds = {name: len(content["systems"][name]["training_seeds"]) for name in methods}
    level, family = content["tests"]["level"], len(content["pairs"])
    between, with_base = (significance.seeds_for_methods(given, level, family) for given in (False, True))
    if min(seeds.values()) >= max(between, with_base):
        return
    counts = ", ".join(f"{name} {count}" for name, count in seeds.items())
    needed = f"{between} seeds of each, all on one side; with the untuned base {with_base}"
    yield (
        f"Training seeds: {counts}; another seed may rank otherwise. A claim about methods, not these trained models, "
        f"takes {needed} (level {level:g}, {family} test{'s' if family > 1 else ''})."
    )


def cautions(content: Mapping[str, Any]) -> Iterator[str]:
    """What the intervals cannot tell, and where the rows are not what they should be."""
    values = {
        name: {task: system["values"][task][facts["primary"]] for task, facts in content["tasks"].items()}
        for name, system in content["systems"].items()
    }
    yield from without_width(content["tasks"], values)
    yield from about_rows(content)
