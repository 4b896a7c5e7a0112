"""Mixtures: what the parts inherit, and what is wrong in one of them."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from tasks.data.sources.mixture import Config


def resolved(parts: list[dict[str, Any]], **values: Any) -> list[Any]:
    return [part for part, _ in Config(parts=parts, **values).resolved()]


def test_what_is_set_beside_the_parts_holds_for_those_that_have_no_value_of_their_own() -> None:
    parts = [{"source": "triples"}, {"source": "advertisegen", "redact": False, "edge_spaces": "keep"}]
    first, second = resolved(parts, redact=True, edge_spaces="strip", system_prompt="你是")
    assert (first.redact, first.edge_spaces, first.system_prompt) == (True, "strip", "你是")
    assert (second.redact, second.edge_spaces, second.system_prompt) == (False, "keep", "你是")


def test_left_alone_a_part_keeps_its_sources_defaults() -> None:
    chats, task = resolved([{"source": "chat_export"}, {"source": "triples"}])
    assert (chats.redact, task.redact) == (True, False)
    assert [part.redact for part in resolved([{"source": "chat_export"}], redact=False)] == [False]


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([{"source": "triplets"}], r"parts\[0\]: data\.source='triplets': unknown; did you mean triples"),
        ([{"path": "x"}], r"parts\[0\]\.source=None: must name a source"),
        ([{"source": "mixture"}], r"parts\[0\]\.source='mixture': must name a source other than mixture"),
        ([{"source": "triples"}, {"source": "triples", "pth": "x"}], r"parts\[1\]\.pth: Extra inputs"),
        ([{"source": "triples", "weight": 1}, {"source": "triples"}], "either every part has a weight or none"),
        ([{"source": "triples", "weight": 0}], r"parts\[0\]\.weight=0: must be a number above 0"),
        ([], "at least 1 item"),
    ],
)
def test_mistakes_name_the_part_and_the_key(parts: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Config(parts=parts)
