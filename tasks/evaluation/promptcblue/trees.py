"""Text2DT: how close a decision tree is to the gold one.

A tree is a list of nodes in pre-order, {role: "C" (condition) or "D" (decision), logical_rel, triples}; its links are
found from the roles alone: a condition whose next two open nodes are decisions takes them as its children and counts
as a decision from then on. Triples are compared in lower case.

``tree_ratio``: 1 - edit distance / (triples + 2 · nodes that hold triples, of both trees), summed over trees; nodes
without triples cost but do not count, so it can fall below 0. ``node_f1``: nodes that hold triples; equal
nodes count pair by pair, so one that a tree repeats can lift it above 1. ``path_f1``: ways from the root to a leaf.
The F1s' counts start at 1e-6, as the official ones do.

Source: michael-wzhu/PromptCBLUE, text2dt_eval_func.py and evaluators.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tasks.evaluation.metric import Array, RowScores, ratio

_START = 1e-6
_REDUCTIONS = 101  # the official loop ends after so many: a bigger tree stays unlinked at its root


@dataclass(frozen=True)
class Node:
    role: str
    relation: str
    triples: frozenset[tuple[str, ...]]


@dataclass(frozen=True)
class Tree:
    """Nodes in pre-order with their links: children (left, right) by node, and (parent, side) by node."""

    nodes: tuple[Node, ...]
    children: dict[int, tuple[int, int]]
    parents: dict[int, tuple[int, str]]


_NOTHING = Node("", "null", frozenset())


def tree(answer: Sequence[Mapping[str, Any]]) -> Tree:
    """The tree of a structured answer, at least one node."""
    nodes = tuple(
        Node(n["role"], n["logical_rel"], frozenset(tuple(part.lower() for part in triple) for triple in n["triples"]))
        for n in answer
    )
    roles: list[str | None] = [node.role for node in nodes]  # None: below a node that is linked
    children: dict[int, tuple[int, int]] = {}
    for _ in range(_REDUCTIONS):
        found = None if roles[0] == "D" else _reducible(roles)
        if found is None:
            break
        top, left, right = found
        children[top] = (left, right)
        roles[top : right + 1] = ["D", *[None] * (right - top)]
    parents = {child: (top, side) for top, pair in children.items() for child, side in zip(pair, "LR", strict=True)}
    return Tree(nodes, children, parents)


def _reducible(roles: Sequence[str | None]) -> tuple[int, int, int] | None:
    """The first condition that two decisions follow before another condition, with them."""
    top, leaves = -1, [0]
    for place, role in enumerate(roles):
        if role == "C":
            top, leaves = place, []
        elif role == "D" and top >= 0:
            leaves.append(place)
            if len(leaves) == 2:
                return top, leaves[0], leaves[1]
    return None


def _distance(a: Node, b: Node) -> int:
    return (a.role != b.role) + (a.relation != b.relation) + len(a.triples ^ b.triples)


def edit_distance(predicted: Tree, gold: Tree) -> int:
    """Node by node from the roots; where one tree ends, every node below in the other one counts in full."""
    total = 0
    pairs = [(0, 0)]
    while pairs:
        p, g = pairs.pop()
        total += _distance(predicted.nodes[p], gold.nodes[g])
        below_p, below_g = predicted.children.get(p), gold.children.get(g)
        if below_p and below_g:
            pairs += zip(below_p, below_g, strict=True)
        else:
            total += _cost_below(predicted, p) + _cost_below(gold, g)
    return total


def _cost_below(tree: Tree, top: int) -> int:
    total = 0
    open_nodes = [*tree.children.get(top, ())]
    while open_nodes:
        node = open_nodes.pop()
        total += _distance(tree.nodes[node], _NOTHING)
        open_nodes += tree.children.get(node, ())
    return total


Path = tuple[Node | str, ...]


def paths(tree: Tree) -> tuple[list[Path], bool]:
    """The ways from each leaf to the root, up to the first leaf that has none; whether all have one."""
    found: list[Path] = []
    for node in range(len(tree.nodes)):
        if node in tree.children:
            continue
        path: list[Node | str] = [tree.nodes[node]]
        while node in tree.parents:
            node, side = tree.parents[node]
            path += [side, tree.nodes[node]]
        if node != 0:
            return found, False
        found.append(tuple(path))
    return found, True


def _path_counts(predicted: Tree, gold: Tree) -> list[int]:
    """[hits, predicted, gold]; the official count stops at the first leaf that is cut off, before gold's paths."""
    ours, whole = paths(predicted)
    if not whole:
        return [0, len(ours), 0]
    theirs, whole = paths(gold)
    wanted = set(theirs) if whole else set()
    return [sum(path in wanted for path in ours), len(ours), len(theirs)]


def _node_counts(predicted: Tree, gold: Tree) -> list[int]:
    """[equal pairs, predicted, gold] of the nodes that hold triples."""
    ours, theirs = (Counter(node for node in tree.nodes if node.triples) for tree in (predicted, gold))
    return [sum(count * theirs[node] for node, count in ours.items()), ours.total(), theirs.total()]


def _statistics(gold: Tree, predicted: Tree) -> list[int]:
    """[edit distance, its upper value, path counts, node counts]."""
    nodes = _node_counts(predicted, gold)
    triples = sum(len(frozenset().union(*(node.triples for node in tree.nodes))) for tree in (predicted, gold))
    most = triples + 2 * (nodes[1] + nodes[2])
    return [edit_distance(predicted, gold), most, *_path_counts(predicted, gold), *nodes]


def score(gold: Sequence[Sequence[Mapping[str, Any]]], predicted: Sequence[Sequence[Mapping[str, Any]]]) -> RowScores:
    """Score trees, position by position."""
    pairs = [(tree(g), tree(p)) for g, p in zip(gold, predicted, strict=True)]
    statistics = np.array([_statistics(g, p) for g, p in pairs], dtype=np.float64)
    same = [float(g.nodes == p.nodes) for g, p in pairs]
    own = np.where(statistics[:, 1] > 0, 1 - ratio(statistics[:, 0], statistics[:, 1]), same)
    return RowScores(
        primary="tree_ratio",
        statistics=statistics,
        values=_values,
        rows=np.clip(own, 0.0, 1.0),
        facts={"answers_without_triples": int((statistics[:, 6] == 0).sum())},
    )


def _values(sums: Array) -> Mapping[str, Array]:
    edits, most = sums[..., 0], sums[..., 1]
    return {
        "tree_ratio": np.where(most > 0, 1 - ratio(edits, most), 0.0),
        "node_f1": _f1(sums[..., 5:8]),
        "path_f1": _f1(sums[..., 2:5]),
    }


def _f1(counts: Array) -> Array:
    hits, predicted, gold = np.moveaxis(counts + _START, -1, 0)
    return 2 * hits / (predicted + gold)  # type: ignore[no-any-return]
