"""Cuts the messages of one chat into dialogues, by the rules of MemoTrace's exporter.

Knows times and who sent; does not know texts, formats or files.

Source: LC044/WeChatMsg (5086906) exporter_json.py, split_by_intervals and what is done to each of its groups.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

LEADING = "sent before anything was received"
LATE = "received, not answered in time"
TRAILING = "unanswered at the end of a dialogue"


@dataclass(frozen=True)
class Window:
    """Messages ``start`` to ``end`` (exclusive): a dialogue, or the reason why they are in none."""

    start: int
    end: int
    reason: str = ""


def cut(times: Sequence[float], replies: Sequence[bool], gap_s: float) -> Iterator[Window]:
    """Windows that cover all messages in their order, each message once.

    A dialogue opens with a received message. What follows belongs to it while no pause is longer than ``gap_s``, and
    so do all replies directly behind that, however late they come. It ends with a reply: what was received after
    the last one is in no dialogue, nor is a group without any reply.

    Args:
        times: in seconds, in the order of the chat; a step backwards counts as no pause.
        replies: whether the message is one of the side whose messages become the assistant's.
    """
    count, start = len(times), 0
    while start < count and replies[start]:
        start += 1
    if start:
        yield Window(0, start, LEADING)
    while start < count:
        end = start + 1
        while end < count and times[end] - times[end - 1] <= gap_s:
            end += 1
        while end < count and replies[end]:
            end += 1
        last = end
        while last > start and not replies[last - 1]:
            last -= 1
        if last == start:
            yield Window(start, end, LATE)
        else:
            yield Window(start, last)
            if last < end:
                yield Window(last, end, TRAILING)
        start = end
