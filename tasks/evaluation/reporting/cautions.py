"""What makes an evaluation's numbers doubtful, or tells that training went wrong; each with its number and a next step.

Reads the report and the tuned model's answers; changes no number. A caution is a sentence in the report, never an
error: whether a model goes on is the gate's to decide.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tasks.evaluation import copying, selection
from tasks.evaluation.metrics import generation, triples
from tasks.evaluation.predictions import Prediction
from tasks.evaluation.reporting import rows as report_rows
from tasks.evaluation.reporting.tables import code

#: Groups (documents, dialogues, or rows) under which a bootstrap interval is too narrow.
FEW_GROUPS = 30
#: Shares of rows from which on a caution is given.
_MANY = 0.1
_NEARLY_ALL = 0.9
_SYSTEMS = {"base": "untuned base", "tuned": "tuned model"}
_ALIKE = {0: "0", 1: "the maximum"}
_OTHERWISE = {0: "more", 1: "less"}

Answers = Sequence[Prediction]


def find(report: Mapping[str, Any], tuned: Answers, worker_facts: Mapping[str, Any]) -> Iterator[str]:
    """Every caution that applies, the gravest kind first.

    Args:
        report: report.json so far.
        tuned: the tuned model's answers.
        worker_facts: what the worker noted of the tuned model.
    """
    replies = report_rows.replied(tuned)
    yield from _unchanged(report, worker_facts)
    yield from _broken(report["generation"]["tuned"])
    yield from _one_answer(replies)
    yield from _copies(replies)
    yield from _malformed(replies)
    yield from _less_likely(report)
    yield from _unmeasured(report)
    yield from _all_alike(report)
    yield from about_rows(report)


def _unchanged(report: Mapping[str, Any], worker_facts: Mapping[str, Any]) -> Iterator[str]:
    if worker_facts.get("same_as_base"):
        yield (
            "The tuned model equals the untuned base: the adapter changed nothing (its norm is 0, or it was not "
            "loaded). Look at the training loss, the learning rate and the number of trainable parameters; no "
            "number here measures training."
        )
    elif report["same_as_base"] == 1:
        yield (
            f"Every one of {report['generation']['tuned']['replies']} replies is the untuned base's: the training "
            "changed nothing that shows. Train longer or at a higher learning rate, and see that the adapter's norm is "
            "not 0."
        )


def _unmeasured(report: Mapping[str, Any]) -> Iterator[str]:
    """Perplexities that leave rows out: two systems may then be averaged over different rows."""
    for task, found in report["tasks"].items():
        for system, facts in found["facts"].items():
            lacking = facts.get("rows_without_likelihood", 0)
            if lacking and any(name.startswith("perplexity") for name in found["values"][system]):
                yield (
                    f"{task}: {lacking} of {found['rows']} rows have no likelihood under the {_SYSTEMS[system]} and "
                    "are left out of its perplexity: the prompt leaves the reference no room, or numbers overflowed. "
                    "Raise tokenization.max_prompt_tokens, or use bf16 instead of fp16."
                )


def _broken(facts: Mapping[str, Any]) -> Iterator[str]:
    if facts["replies"] and facts["empty"] > _MANY:
        yield (
            f"{facts['empty']:.0%} of the tuned model's replies are empty. Look for empty replies in the training "
            "rows (python -m flows.preview), and compare the base's share below."
        )
    if facts["replies"] and facts["stopped"] < 1 - _MANY:
        yield (
            f"{1 - facts['stopped']:.0%} of the tuned model's replies were cut at evaluation.max_new_tokens. Where "
            "references are as long, raise it; otherwise the model does not stop: see in python -m flows.preview "
            "that the end token is learned."
        )
    if facts["prompts_cut"] > 0:
        yield (
            f"{facts['prompts_cut']:.1%} of the prompts were cut at tokenization.max_prompt_tokens, so their answers "
            "rest on a part of the question; raise it, for training too."
        )


def _one_answer(tuned: Answers) -> Iterator[str]:
    """Tasks where nearly every reply is the same one and the references are not."""
    for task, rows in _by_task(tuned):
        (reply, count), (_, wanted) = (_most_frequent(texts) for texts in _replies_and_references(rows))
        if count / len(rows) > _NEARLY_ALL and (count - wanted) / len(rows) > _MANY:
            yield (
                f"{task}: {count / len(rows):.0%} of the replies are the one {code(reply)}, while the most "
                f"frequent reference makes up {wanted / len(rows):.0%}. The model collapsed onto one answer: balance "
                "the training rows, or lower the learning rate."
            )


def _replies_and_references(rows: Answers) -> tuple[list[str], list[str]]:
    return [r.prediction.strip() for r in rows], [r.reference.strip() for r in rows]


def _most_frequent(texts: Sequence[str]) -> tuple[str, int]:
    return Counter(texts).most_common(1)[0]


def _copies(tuned: Answers) -> Iterator[str]:
    share = copying.share(tuned)
    if share is not None and share > _MANY:
        yield (
            f"{share:.0%} of the tuned model's replies are training replies word for word (of "
            f"{copying.SHORTEST} characters or more, and not the reference): it recites. Train fewer epochs, and "
            "look for near-duplicates between the splits."
        )
    repeated = sum(_repeats_input(row) for row in tuned)
    if repeated > _MANY * len(tuned):
        yield (
            f"{repeated / len(tuned):.0%} of the tuned model's replies are the input, word for word. See in "
            "python -m flows.preview that prompts carry no loss and that replies are not the prompts."
        )


def _repeats_input(row: Prediction) -> bool:
    reply = row.prediction.strip()
    return bool(reply) and reply == row.prompt.strip() and reply not in (r.strip() for r in generation.references(row))


def _malformed(tuned: Answers) -> Iterator[str]:
    """Triples tasks whose answers are often no triples."""
    for task, rows in _by_task([r for r in tuned if r.metric == "triples"]):
        lines = sum(bool(line.strip()) for r in rows for line in r.prediction.split("\n"))
        malformed = sum(triples.parse(r.prediction).malformed for r in rows)
        if malformed > _MANY * lines:
            yield (
                f"{task}: {malformed} of {lines} answered lines ({malformed / lines:.0%}) are not "
                "head_relation_tail and count as nothing. Train longer; evaluation.constraint=triples gives every "
                "line the form, which makes no wrong triple right."
            )


def _less_likely(report: Mapping[str, Any]) -> Iterator[str]:
    """Values that are better when lower, and rose: in a table that looks like a gain."""
    for task, facts in report["tasks"].items():
        for value, moved in facts["value_differences"].items():
            if "[" in value or not selection.lower_is_better(value) or moved["low"] <= 0:
                continue
            before, after = (facts["values"][system][value]["value"] for system in ("base", "tuned"))
            yield (
                f"{task}: {value} rose from {before:.3g} to {after:.3g}, and lower is better: the real replies became "
                "less likely. Train fewer epochs, or choose the checkpoint by it (evaluation.choose_by)."
            )


def _all_alike(report: Mapping[str, Any]) -> Iterator[str]:
    values = {
        f"The {label}": {task: facts["values"][system][facts["primary"]] for task, facts in report["tasks"].items()}
        for system, label in _SYSTEMS.items()
    }
    yield from without_width(report["tasks"], values)


def without_width(tasks: Mapping[str, Any], values: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Main values of 0 or 1 that no resample moves, with what share of other rows they leave open.

    Args:
        tasks: of each its number of groups and rows.
        values: of each system, by its name in a sentence, each task's main value with its interval.

    Source: where none of n rows is an exception, the upper 95 % bound of their share is 1 - 0.05^(1/n); about 3/n, the
    rule of three (Hanley and Lippman-Hand, 1983).
    """
    alike: dict[tuple[str, int], list[str]] = defaultdict(list)
    for task, facts in tasks.items():
        n = facts["groups"]
        unit = "rows" if n == facts["rows"] else "documents"
        for system, intervals in values.items():
            value = round(intervals[task]["value"], 6)  # some official scores add 1e-8 to a divisor
            if value in (0, 1) and intervals[task]["low"] == intervals[task]["high"]:
                alike[system, int(value)].append(f"{task} ({n} {unit}: up to {1 - 0.05 ** (1 / n):.1%})")
    for (system, value), names in alike.items():
        yield (
            f"{system} scores {_ALIKE[value]} on every row of {', '.join(names)}. An interval without "
            f"width tells nothing about other rows: the share in brackets of them may score {_OTHERWISE[value]} (upper "
            "95 % bound, about 3/n). Evaluate more rows to know it better."
        )


def about_rows(content: Mapping[str, Any]) -> Iterator[str]:
    """Too few rows, or rows of another split than the test; of a report's or a comparison's content."""
    few = [f"{task} ({facts['groups']})" for task, facts in content["tasks"].items() if facts["groups"] < FEW_GROUPS]
    if few:
        yield (
            f"Under {FEW_GROUPS} rows or documents, where a bootstrap interval is too narrow: {', '.join(few)}. Read "
            "the p-value rather than the interval, and evaluate more rows (evaluation.test_rows, data.test)."
        )
    if content["split"] != "test":
        yield (
            f"The data set has no test rows: these are the {content['split']} rows. Set data.test to rows that nothing "
            "was chosen on."
        )


def _by_task(rows: Answers) -> Iterator[tuple[str, Answers]]:
    tasks: dict[str, list[Prediction]] = defaultdict(list)
    for row in rows:
        tasks[row.task].append(row)
    yield from sorted(tasks.items())
