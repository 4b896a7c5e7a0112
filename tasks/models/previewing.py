"""Worker: the first rows of a data set as training sees them, token by token. Needs tokenizers only, no torch.

job.json: what ``tasks.models.tokenizing`` takes, and ``count``. Result: the line on the layout, and for each row its
id, input_ids, labels (-100: not learned), the tokens as text, and what was cut or why it would be left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from tasks.conversation import read_rows
from tasks.models.fitting import Tokeniser, told
from tasks.models.rendering import Rendered
from tasks.worker import Job, main

#: The label of a token that is not learned. Source: the default ignore_index of torch's cross entropy.
IGNORED = -100


def run(job: Job) -> Mapping[str, Any]:
    tokeniser = Tokeniser(job.values)
    rows = tokeniser.rows(read_rows(Path(job.values["dataset"]) / "train.parquet"))
    shown = []
    for row, rendered, problem in islice(rows, job.values["count"]):
        if any(rendered.learn):
            tokeniser.check(row, rendered)
        tokens = [_text(tokeniser.tokenizer, i) for i in rendered.ids]
        shown.append({"id": row.id, **labelled(rendered), "tokens": tokens, "problem": problem})
    return {"layout": told(tokeniser.layout, tokeniser.thoughts), "rows": shown}


def labelled(rendered: Rendered) -> dict[str, list[int]]:
    labels = [i if learn else IGNORED for i, learn in zip(rendered.ids, rendered.learn, strict=True)]
    return {"input_ids": rendered.ids, "labels": labels}


def _text(tokenizer: Any, token: int) -> str:
    """A token as text; its name in the vocabulary where it is only a part of a character."""
    text = str(tokenizer.decode([token], skip_special_tokens=False, clean_up_tokenization_spaces=False))
    return str(tokenizer.convert_ids_to_tokens(token)) if "\ufffd" in text or not text else text


if __name__ == "__main__":
    main(run)
