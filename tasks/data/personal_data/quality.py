"""How well personal data is found: recall and precision by kind on a labelled set, false hits on texts without any.

The labelled set (tests/golden/redaction.jsonl) is made independently of the detectors, which had no part in labelling.
"""

from __future__ import annotations

import json
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

from tasks.data.personal_data.redaction import KINDS, Redactor
from tasks.data.personal_data.scan import scan


class Hit(Protocol):
    """What a detector gives: characters start..end of one message."""

    @property
    def kind(self) -> str: ...
    @property
    def message(self) -> int: ...
    @property
    def start(self) -> int: ...
    @property
    def end(self) -> int: ...


Detector = Callable[[Sequence[str], Sequence[str]], Sequence[Hit]]
Result = dict[str, Any]


def redactor() -> Detector:
    """The redaction as a detector; the key makes placeholders, which nothing here looks at."""
    return Redactor(b"measured, never written").find


def detectors() -> dict[str, Detector]:
    """The redaction and the final scan."""
    return {"redaction": redactor(), "scan": scan}


def load_cases(path: Path) -> list[Result]:
    """The labelled cases of a JSONL file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def measure(cases_path: Path, detector: Detector | None = None) -> Result:
    """Recall and precision of one detector (the redaction without another) on a labelled set.

    Returns:
        `cases`, `negatives`, `false` (hits in negatives: kind, id of the case, note), `missed` (spans: kind, id, note)
        and `kinds`: for each kind `gold`, `found` (spans wholly covered by hits, of whatever kind), `same_kind`
        (wholly covered by hits of that kind), `recall`, `hits`, `right` (hits that overlap a gold span), `precision`,
        `false` (in negatives).
    """
    detector = detector or redactor()
    cases = load_cases(cases_path)
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    missed: list[dict[str, str]] = []
    false: list[dict[str, str]] = []
    for case in cases:
        hits = detector(case["messages"], case["names"])
        for gold in case["gold"]:
            count = counts[gold["kind"]]
            count["gold"] += 1
            count["found"] += _covered(gold, hits)
            count["same_kind"] += _covered(gold, [hit for hit in hits if hit.kind == gold["kind"]])
            if not _covered(gold, hits):
                missed.append({"kind": gold["kind"], "id": case["id"], "note": case["note"]})
        for hit in hits:
            counts[hit.kind]["hits"] += 1
            counts[hit.kind]["right"] += any(_overlap(gold, hit) for gold in case["gold"])
            if not case["gold"]:
                counts[hit.kind]["false"] += 1
                false.append({"kind": hit.kind, "id": case["id"], "note": case["note"]})
    negatives = sum(not case["gold"] for case in cases)
    kinds = {kind: _rates(counts[kind]) for kind in (*KINDS, *sorted(set(counts) - set(KINDS)))}
    return {"cases": len(cases), "negatives": negatives, "kinds": kinds, "missed": missed, "false": false}


def _covered(gold: dict[str, Any], hits: Sequence[Hit]) -> bool:
    """Whether every character of the span lies in some hit."""
    places = [hit for hit in hits if hit.message == gold["message"]]
    return all(any(hit.start <= at < hit.end for hit in places) for at in range(gold["start"], gold["end"]))


def _overlap(gold: dict[str, Any], hit: Hit) -> bool:
    return bool(hit.message == gold["message"] and hit.start < gold["end"] and gold["start"] < hit.end)


def _rates(count: Counter[str]) -> Result:
    """The counts of one kind with recall and precision; None where there is nothing to divide by."""
    recall = count["found"] / count["gold"] if count["gold"] else None
    precision = count["right"] / count["hits"] if count["hits"] else None
    names = ("gold", "found", "same_kind", "hits", "right", "false")
    return {**{name: count[name] for name in names}, "recall": recall, "precision": precision}


def left_over(cases_path: Path, detector: Detector | None = None) -> list[dict[str, str]]:
    """What the final scan still reports after the hits of a detector were replaced: kind, id of the case, note.

    Each of these would fail the data stage: the scan knows a form that the redaction does not.
    """
    detector = detector or redactor()
    left = []
    for case in load_cases(cases_path):
        messages = list(case["messages"])
        for hit in sorted(detector(messages, case["names"]), key=lambda hit: -hit.start):
            text = messages[hit.message]
            messages[hit.message] = f"{text[: hit.start]}[{hit.kind[:8]}:qqqqqq]{text[hit.end :]}"
        kinds = {finding.kind for finding in scan(messages, case["names"])}
        left += [{"kind": kind, "id": case["id"], "note": case["note"]} for kind in sorted(kinds)]
    return left


def false_hits(texts: Iterable[str], detector: Detector | None = None) -> dict[str, float]:
    """Hits by kind per 1,000 texts, for texts that hold no personal data; kinds without a hit are left out."""
    detector = detector or redactor()
    counts: Counter[str] = Counter()
    total = 0
    for text in texts:
        total += 1
        counts.update(hit.kind for hit in detector((text,), ()))
    return {kind: 1000 * count / total for kind, count in sorted(counts.items())}


def table(result: Result) -> str:
    """One result of `measure` as a plain-text table."""
    lines = [f"{result['cases']} cases, {result['negatives']} of them without personal data"]
    lines.append(
        f"{'kind':<10}{'gold':>6}{'found':>7}{'same kind':>11}{'recall':>9}{'hits':>7}{'precision':>11}{'false':>7}"
    )
    for kind, row in result["kinds"].items():
        recall, precision = (f"{row[k]:.3f}" if row[k] is not None else "-" for k in ("recall", "precision"))
        numbers = f"{row['gold']:>6}{row['found']:>7}{row['same_kind']:>11}{recall:>9}{row['hits']:>7}{precision:>11}"
        lines.append(f"{kind:<10}{numbers}{row['false']:>7}")
    lines.append(
        "found: wholly covered by hits; precision: hits that touch personal data; false: hits in cases without any"
    )
    return "\n".join(lines)


def report(paths: Sequence[Path]) -> str:
    """The tables of both detectors for each labelled file, and where the scan would stop what the redaction left."""
    parts = []
    for path in paths:
        parts += [f"{name} on {path.name}: {table(measure(path, found))}" for name, found in detectors().items()]
        left = left_over(path)
        lines = [f"  {case['id']} {case['kind']} ({case['note']})" for case in left]
        parts.append("\n".join([f"reported by the scan after redaction, in {path.name}: {len(left)}", *lines]))
    return "\n\n".join(parts)


if __name__ == "__main__":
    given = [Path(name) for name in sys.argv[1:]]
    sys.stdout.write(report(given or [Path("tests/golden/redaction.jsonl")]) + "\n")
