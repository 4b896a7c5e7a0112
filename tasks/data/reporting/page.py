"""The account of a data set as a page for people: report.md. Counts and names only, never a row's content.

Every table says where records went; numbers that do not add up are an error here, not something to print.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tasks.data.reporting.markdown import plain, table
from tasks.data.source import SPLITS

#: Labels shown for a task, in report.md and in the plot alike; the rest is one line.
TOP_LABELS = 15
_SPREAD = ("smallest", "median", "p95", "largest")
_STEPS = {
    "read": "all that the files hold",
    "parsed": "unreadable records are gone",
    "converted": "records that the source could not use are gone",
    "clean": "dialogues that broke the role rules or were empty are gone",
    "without duplicates": "repeated and nearly repeated dialogues are gone",
    "without leaks": "training rows that validation or test holds too are gone",
    "kept": "rows over a cap are gone",
}
_ONE_LABEL_SHARE = 0.9
_FEW_KEPT_SHARE = 0.9
_FEW = 5
#: Files listed by name; a chat history may have thousands.
_MOST_FILES = 100

Summary = Mapping[str, Any]


def page(summary: Summary) -> str:
    """report.md of the content of report.json.

    Raises:
        AssertionError: the counts contradict each other.
    """
    _check(summary)
    sections = (_headline, _attention, _dropped, _funnel, _splits, _tasks, _labels, _files, _protection, _notes)
    return "\n".join(line for section in sections for line in section(summary)) + "\n"


def pictures(summary: Summary) -> list[str]:
    """The plots that this account has something to show in, in the order of the page."""
    names = ["funnel.png"]
    if any(any(split.get("histogram", {}).values()) for split in summary["splits"].values()):
        names.append("lengths.png")
    if any(summary["labels"].values()):
        names.append("labels.png")
    return names


def top_labels(counts: Mapping[str, int]) -> tuple[list[tuple[str, int]], int, int]:
    """The most frequent labels with their counts, how many others there are, and the rows of those.

    Among equally frequent labels the smaller text comes first, so that page and plot number them alike.
    """
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    # a line "1 other label" would take the place of that label
    shown = len(ordered) if len(ordered) == TOP_LABELS + 1 else TOP_LABELS
    rest = ordered[shown:]
    return ordered[:shown], len(rest), sum(count for _, count in rest)


def share(part: int, whole: int) -> str:
    """Percent of the whole; 0 % and 100 % only where it is none or all."""
    if not whole:
        return "–"
    percent = 100 * part / whole
    if 0 < percent < 0.05:
        return "<0.1 %"
    if 99.95 <= percent < 100:
        return ">99.9 %"
    return f"{percent:.0f} %" if part in (0, whole) else f"{percent:.1f} %"


# --- what must hold -----------------------------------------------------------------------------------------------


def _check(summary: Summary) -> None:
    rows = summary["rows"]
    for name, account in [("rows", rows), *summary["files"].items(), *summary["tasks"].items()]:
        left = account["kept"] + sum(account["dropped"].values())
        assert account["read"] == left, f"{name}: read {account['read']}, but kept and dropped are {left}"
    for part in ("files", "tasks"):
        for count in ("read", "kept"):
            found = sum(account[count] for account in summary[part].values())
            assert found == rows[count], f"{part}: {count} {found}, but {rows[count]} over all"
    left = [step["records"] for step in summary["steps"]]
    assert left == sorted(left, reverse=True), f"steps: a step adds records: {left}"
    ends = (left[0], left[-1]) if left else (rows["read"], rows["kept"])
    assert ends == (rows["read"], rows["kept"]), (
        f"steps: from {ends[0]} to {ends[1]}, not {rows['read']} to {rows['kept']}"
    )
    made = sum(split["rows"] for split in summary["splits"].values())
    assert made == summary["made"], f"splits: {made} rows, but {summary['made']} were made"


# --- sections -----------------------------------------------------------------------------------------------------


def _headline(summary: Summary) -> Iterator[str]:
    rows, records = summary["rows"], summary["records"]
    dropped = rows["read"] - rows["kept"]
    yield f"# Data set: {plain(summary['source'])}, {rows['kept']:,} of {_count(rows['read'], records)} kept"
    yield ""
    yield (
        f"**read {rows['read']:,} = kept {rows['kept']:,} + dropped {dropped:,}** ({records}): "
        f"{share(rows['kept'], rows['read'])} kept, {share(dropped, rows['read'])} dropped."
    )
    parts = ", ".join(f"{split['rows']:,} {name}" for name, split in _ordered(summary["splits"]))
    if records == "rows":
        yield f"By split: {parts}."
    else:
        kept, made = _count(rows["kept"], records), _count(summary["made"], "rows")
        yield f"The {kept} make {made} to train on and test: {parts}."
    if summary.get("detected"):
        yield f"Found by looking at the files: {plain(summary['detected'])}."


def _attention(summary: Summary) -> Iterator[str]:
    lines = list(_concerns(summary))
    if lines:
        yield from ["", "## Worth a look", ""]
        yield from (f"- {line}" for line in lines)


def _concerns(summary: Summary) -> Iterator[str]:
    rows, splits = summary["rows"], summary["splits"]
    if rows["dropped"] and rows["kept"] < _FEW_KEPT_SHARE * rows["read"]:
        reason, count = _by_count(rows["dropped"])[0]
        lost = share(rows["read"] - rows["kept"], rows["read"])
        yield f"{lost} of the {summary['records']} were dropped; the most frequent reason ({count:,}): {plain(reason)}."
    lost_files = [name for name, account in summary["files"].items() if not account["kept"]]
    for name in lost_files[:_FEW]:
        read = summary["files"][name]["read"]
        yield f"{plain(name)}: " + (
            f"nothing of its {_count(read, summary['records'])} was kept."
            if read
            else f"holds no {summary['records']}."
        )
    if len(lost_files) > _FEW:
        yield f"{_count(len(lost_files) - _FEW, 'files')} more of which nothing was kept."
    for name, split in _ordered(splits):
        if not split["rows"]:
            yield f"There are no {name} rows ({plain(split['origin'], longest=300)})."
    train = splits.get("train", {})
    if train.get("rows", 0) >= 20 and train.get("distinct_replies") == 1:
        yield "Every training row has the same reply: nothing can be learned but that one."
    for task, counts in sorted(summary["labels"].items()):
        total = sum(counts.values())
        if total >= 20 and max(counts.values()) > _ONE_LABEL_SHARE * total:
            same = share(max(counts.values()), total)
            yield f"{plain(task)}: {same} of the training rows have one and the same label."
    if summary["source"].startswith("chat_") and not summary["redaction"]["on"]:
        yield "Personal data was left as it is (data.redact=false): the model may learn and repeat it."
    if summary["skipped_files"]:
        yield f"{_count(len(summary['skipped_files']), 'files')} in the folder not read, see Files."


def _dropped(summary: Summary) -> Iterator[str]:
    rows, records = summary["rows"], summary["records"]
    yield from ["", "## Where the rest went", ""]
    if not rows["dropped"]:
        yield f"Nothing was dropped: all {_count(rows['read'], records)} were kept."
        return
    lines = [(plain(reason), f"{n:,}", share(n, rows["read"])) for reason, n in _by_count(rows["dropped"])]
    total = sum(rows["dropped"].values())
    yield from table(
        [("reason", records, "of all read"), *lines, ("**dropped**", f"**{total:,}**", share(total, rows["read"]))]
    )
    yield from ["", "Each of them is in `quarantine.jsonl`, with its file, line and reason."]


def _funnel(summary: Summary) -> Iterator[str]:
    steps = summary["steps"]
    if not steps:
        return
    yield from ["", "## Step by step", "", "![what is left after each step](funnel.png)", ""]
    before, lines = steps[0]["records"], []
    for step in steps:
        left, lost = step["records"], before - step["records"]
        shown = f"−{lost:,}" if lost else "0"
        lines.append(
            (plain(step["name"]), f"{left:,}", shown, share(left, steps[0]["records"]), _STEPS.get(step["name"], ""))
        )
        before = left
    lines[0] = (*lines[0][:2], "", *lines[0][3:])
    yield from table(
        [("step", f"{summary['records']} left", "lost here", "of all read", "what it means"), *lines], left=(0, 4)
    )


def _splits(summary: Summary) -> Iterator[str]:
    yield from ["", "## Splits", ""]
    header = ("split", "rows", "of all rows", "where they come from", "different replies")
    lines = [
        (
            name,
            f"{split['rows']:,}",
            share(split["rows"], summary["made"]),
            plain(split["origin"], longest=300),
            f"{split['distinct_replies']:,}",
        )
        for name, split in _ordered(summary["splits"])
    ]
    yield from table([header, *lines, ("**all**", f"**{summary['made']:,}**", "", "", "")], left=(0, 3))
    unseen = summary.get("unseen_entities")
    if unseen:
        yield ""
        yield (
            f"Test rows whose entities do not occur in training: {unseen['unseen']:,}; "
            f"whose entities do: {unseen['seen']:,}."
        )
    yield from _lengths(summary)


def _lengths(summary: Summary) -> Iterator[str]:
    yield from ["", "## Lengths in characters", ""]
    if "lengths.png" in pictures(summary):
        yield from ["![lengths of prompts and replies](lengths.png)", ""]
    lines = []
    for name, split in _ordered(summary["splits"]):
        for what in ("prompt", "reply"):
            values = split[f"{what}_characters"]
            lines.append((name, what, *(f"{values[key]:,}" if key in values else "–" for key in _SPREAD)))
    yield from table([("split", "", "smallest", "median", "95 % are at most", "largest"), *lines], left=(0, 1))


def _tasks(summary: Summary) -> Iterator[str]:
    tasks, splits = summary["tasks"], _ordered(summary["splits"])
    yield from ["", "## Tasks", ""]
    header = ("task", "read", "kept", "dropped", *(f"{name} rows" for name, _ in splits), "dropped for")
    lines = [
        (plain(task), *_account(account), *(f"{split['tasks'].get(task, 0):,}" for _, split in splits), _why(account))
        for task, account in tasks.items()
    ]
    rows = tuple(f"**{split['rows']:,}**" for _, split in splits)
    lines.append(("**all**", *(f"**{cell}**" for cell in _account(summary["rows"])), *rows, ""))
    yield from table([header, *lines], left=(0, len(header) - 1))
    if summary["records"] != "rows":
        yield from ["", f"Read, kept and dropped count {summary['records']}; the splits count rows."]


def _labels(summary: Summary) -> Iterator[str]:
    labels = {task: counts for task, counts in sorted(summary["labels"].items()) if counts}
    if not labels:
        return
    yield from ["", "## Labels of the training rows", "", "![how often each label occurs](labels.png)"]
    for task, counts in labels.items():
        total = sum(counts.values())
        top, others, rest = top_labels(counts)
        yield from ["", f"### {plain(task)}: {_count(len(counts), 'labels')}, {_count(total, 'rows')}", ""]
        lines = [(str(n), plain(label) or "(empty)", f"{c:,}", share(c, total)) for n, (label, c) in enumerate(top, 1)]
        if others:
            lines.append(("", f"{others:,} others", f"{rest:,}", share(rest, total)))
        yield from table([("#", "label", "rows", "of the task"), *lines], left=(1,))


def _files(summary: Summary) -> Iterator[str]:
    """Every file with its account, in the order they were read; of very many, those that lost most."""
    yield from ["", "## Files", ""]
    files = dict(summary["files"])
    lost = sorted(files, key=lambda name: files[name]["kept"] - files[name]["read"])
    hidden = set(lost[_MOST_FILES:])
    lines = [
        (plain(name), file["split"], plain(file.get("encoding") or "–"), *_account(file), _why(file))
        for name, file in files.items()
        if name not in hidden
    ]
    if hidden:
        rest = {key: sum(files[name][key] for name in hidden) for key in ("read", "kept")}
        lines.append((f"{_count(len(hidden), 'files')} more (report.json)", "", "", *_account(rest), ""))
    total = ("**all**", "", "", *(f"**{cell}**" for cell in _account(summary["rows"])), "")
    header = ("file", "for", "encoding", "read", "kept", "dropped", "dropped for")
    yield from table([header, *lines, total], left=(0, 1, 2, 6))
    yield from _skipped(summary["skipped_files"])


def _skipped(names: Mapping[str, str]) -> Iterator[str]:
    if not names:
        return
    yield from ["", "Not read:", ""]
    lines = [(plain(name), plain(reason, longest=300)) for name, reason in list(names.items())[:_MOST_FILES]]
    if len(names) > _MOST_FILES:
        lines.append((f"{_count(len(names) - _MOST_FILES, 'files')} more (report.json)", ""))
    yield from table([("file", "why"), *lines], left=(0, 1))


def _protection(summary: Summary) -> Iterator[str]:
    redaction = summary["redaction"]
    yield from ["", "## Personal data", ""]
    if not redaction["on"]:
        yield "Not looked for (data.redact=false): the texts are as they came."
        return
    hits = redaction["hits"]
    found = _count(sum(hits.values()), "places")
    rows, key = _count(redaction["rows"], "rows"), plain(str(redaction["key"]))
    yield f"{found} in {rows} replaced by pseudonyms (key {key})."
    scan = "found nothing more" if redaction["final_scan"] == "clean" else f"was {plain(redaction['final_scan'])}"
    yield f"The final scan of everything written {scan}."
    if hits:
        yield ""
        yield from table([("kind", "replaced"), *((plain(kind), f"{n:,}") for kind, n in _by_count(hits))])


def _notes(summary: Summary) -> Iterator[str]:
    yield from ["", "## What was mended", ""]
    if not summary["notes"]:
        yield "Nothing needed it."
        return
    yield from table([("what", "times"), *((plain(note), f"{n:,}") for note, n in _by_count(summary["notes"]))])


# --- cells --------------------------------------------------------------------------------------------------------


def _account(account: Mapping[str, Any]) -> tuple[str, str, str]:
    return f"{account['read']:,}", f"{account['kept']:,}", f"{account['read'] - account['kept']:,}"


def _why(account: Mapping[str, Any]) -> str:
    """The reasons of one account, the three most frequent by name."""
    reasons = _by_count(account["dropped"])
    shown = [f"{plain(reason)} {n:,}" for reason, n in reasons[:3]]
    rest = sum(n for _, n in reasons[3:])
    return ", ".join([*shown, f"other reasons {rest:,}"] if rest else shown)


def _by_count(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


def _ordered(splits: Mapping[str, Any]) -> list[tuple[str, Any]]:
    return [(name, splits[name]) for name in SPLITS if name in splits]


def _count(number: int, plural: str) -> str:
    return f"{number:,} {plural[:-1] if number == 1 else plural}"
