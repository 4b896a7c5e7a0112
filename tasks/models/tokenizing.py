"""Worker: renders and tokenises a data set for one base model into shards of tokens (tasks.models.tokens).

The rows of a split are cut into shards by their number alone, so the files are the same whatever the number of
processes. Processes render batches; this one reads the rows, writes each shard as a whole and keeps the account, so
that a worker that is killed leaves whole shards only, and the next one makes just those that are missing. Needs
tokenizers and pyarrow, no torch.

job.json: dataset, model (folders), layout (families.Layout as JSON; without it the model's files tell), the fields of
TokenizationConfig, and inputs: what the two folders hold, so that shards of others are never taken for these.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import shutil
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tasks import parallel
from tasks.conversation import rows_of
from tasks.errors import CorruptArtifact, Stopped
from tasks.models.fitting import Tokeniser, first_refused, told
from tasks.models.tokens import Shard, TokenRows, Tokens, shard_file, write_shard
from tasks.worker import Job, main

log = logging.getLogger(__name__)

SPLITS = ("train", "validation")
SHARD_ROWS = 4096
#: Longer splits get longer shards: each is a mapping, and a process may hold about a thousand.
_MOST_SHARDS = 128
_BATCH_ROWS = 512
_COLUMNS = ["id", "task", "metric", "messages"]
#: Text for which a process is worth its start, which takes two seconds: about 6,000 rows.
_PROCESS_BYTES = 4 << 20
_MOST_PROCESSES = 32
#: Values of a job that decide the tokens; the others say where and how.
DECISIVE = ("inputs", "layout", "max_prompt_tokens", "max_reply_tokens", "overlong", "labels")


@dataclass
class Account:
    """What became of some rows.

    Attributes:
        read, kept: rows; tokens, learned: of the kept ones; longest: tokens of the longest.
        cut: rows whose last reply was cut, so that its end token is not learned.
        truncated, dropped: rows by what was wrong with them.
        layout, thoughts, refused: see fitting.Tokeniser.
    """

    read: int = 0
    kept: int = 0
    tokens: int = 0
    learned: int = 0
    longest: int = 0
    cut: int = 0
    truncated: dict[str, int] = field(default_factory=dict)
    dropped: dict[str, int] = field(default_factory=dict)
    layout: str = ""
    thoughts: int = 0
    refused: list[str] = field(default_factory=list)

    def add(self, other: Account) -> None:
        for name in ("read", "kept", "tokens", "learned", "cut", "thoughts"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.longest = max(self.longest, other.longest)
        self.truncated = dict(Counter(self.truncated) + Counter(other.truncated))
        self.dropped = dict(Counter(self.dropped) + Counter(other.dropped))
        self.layout = self.layout or other.layout
        self.refused = first_refused([*self.refused, *other.refused])


@dataclass(frozen=True)
class Split:
    """The rows of a split, and how they are cut into shards.

    Attributes:
        path: their Parquet file, which may be missing.
        rows: in it; text_bytes: of their messages.
    """

    name: str
    path: Path
    rows: int
    text_bytes: int

    @property
    def shard_rows(self) -> int:
        share = math.ceil(self.rows / _MOST_SHARDS / _BATCH_ROWS) * _BATCH_ROWS
        return max(SHARD_ROWS, share)

    @property
    def shards(self) -> int:
        return max(1, math.ceil(self.rows / self.shard_rows))  # no row: one shard without rows

    def rows_in(self, shard: int) -> int:
        return min(self.rows - shard * self.shard_rows, self.shard_rows)


@dataclass(frozen=True)
class Batch:
    """Rows of one shard, an Arrow batch of their dialogues; None for a split without rows."""

    split: int
    shard: int
    rows: Any


@dataclass(frozen=True)
class Part:
    """What a batch became."""

    split: int
    shard: int
    tokens: Tokens
    account: Account


class Work:
    """Makes parts of batches; one in every process."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._tokeniser = Tokeniser(values)
        self._drops = values["overlong"] == "drop"

    def __call__(self, batch: Batch) -> Part:
        tokeniser = self._tokeniser
        tokeniser.thoughts, tokeniser.refused = 0, []
        ids, learn, lengths = array("i"), bytearray(), array("q")
        account, truncated, dropped = Account(layout=tokeniser.layout), Counter[str](), Counter[str]()
        for row, rendered, problem in tokeniser.rows(rows_of(batch.rows)) if batch.rows is not None else ():
            account.read += 1
            if problem and (self._drops or not any(rendered.learn)):
                dropped[problem] += 1
                continue
            tokeniser.check(row, rendered)
            truncated[problem] += bool(problem)
            ids.extend(rendered.ids)
            learn.extend(rendered.learn)
            lengths.append(len(rendered.ids))
            account.cut += rendered.cut
        account.kept, account.tokens, account.learned = len(lengths), len(ids), sum(learn)
        account.longest = max(lengths, default=0)
        account.truncated, account.dropped = dict(+truncated), dict(dropped)
        account.thoughts, account.refused = tokeniser.thoughts, tokeniser.refused
        tokens = Tokens(np.array(ids, np.int32), np.frombuffer(bytes(learn), np.uint8), np.array(lengths, np.int64))
        return Part(batch.split, batch.shard, tokens, account)


def run(job: Job) -> Mapping[str, Any]:
    values = job.values
    splits = [_split(Path(values["dataset"]), name) for name in SPLITS]
    settings = _settings(values, splits)
    accounts = [_kept(job.folder, split, settings) for split in splits]
    missing = [[n for n in range(s.shards) if n not in kept] for s, kept in zip(splits, accounts, strict=True)]
    if any(missing):
        _make(job, splits, missing, settings, accounts)
    return _facts(job.folder, splits, accounts)


def _make(
    job: Job,
    splits: Sequence[Split],
    missing: Sequence[Sequence[int]],
    settings: str,
    accounts: Sequence[dict[int, Account]],
) -> None:
    """Make the missing shards, and put their accounts with those of the others."""
    total = sum(split.rows for split in splits)
    done = sum(account.read for kept in accounts for account in kept.values())
    share = 1 - done / max(total, 1)
    wanted = 1 + int(share * sum(split.text_bytes for split in splits) / _PROCESS_BYTES)
    processes = job.values.get("processes") or min(wanted, parallel.default_processes(_MOST_PROCESSES))
    log.info(
        "%d shards to make, %d are there; processes: %d", sum(map(len, missing)), sum(map(len, accounts)), processes
    )
    collected: list[Tokens] = []
    account = Account()
    with closing(parallel.in_order(Work, job.values, _batches(splits, missing), processes)) as parts:
        for part in parts:
            collected.append(part.tokens)
            account.add(part.account)
            done += part.account.read
            job.progress(done, total)
            split = splits[part.split]
            if account.read == split.rows_in(part.shard):
                path = shard_file(job.folder, split.name, part.shard)
                write_shard(path, collected, shards=split.shards, settings=settings, facts=asdict(account))
                accounts[part.split][part.shard] = account
                collected, account = [], Account()
            if job.stopping:
                made = sum(map(len, accounts))
                raise Stopped(f"tokenize: stopped with {made} of {sum(s.shards for s in splits)} shards made")


def _batches(splits: Sequence[Split], missing: Sequence[Sequence[int]]) -> Iterator[Batch]:
    """The rows of missing shards, in order; a row group without any is not read."""
    from pyarrow import parquet

    for number, (split, shards) in enumerate(zip(splits, missing, strict=True)):
        if not split.rows:
            yield from (Batch(number, shard, None) for shard in shards)
            continue
        if not shards:
            continue
        wanted, size = set(shards), split.shard_rows
        with parquet.ParquetFile(split.path) as file:
            start = 0
            for group in range(file.num_row_groups):
                end = start + file.metadata.row_group(group).num_rows
                if wanted.isdisjoint(range(start // size, math.ceil(end / size))):
                    start = end
                    continue
                for rows in file.iter_batches(_BATCH_ROWS, row_groups=[group], columns=_COLUMNS):
                    for shard, piece in _cut(rows, start, size):
                        if shard in wanted:
                            yield Batch(number, shard, piece)
                    start += rows.num_rows


def _cut(rows: Any, start: int, size: int) -> Iterator[tuple[int, Any]]:
    """The pieces of an Arrow batch, whose first row is number ``start``, by shard."""
    for shard in range(start // size, math.ceil((start + rows.num_rows) / size)):
        first = max(0, shard * size - start)
        yield shard, rows.slice(first, (shard + 1) * size - start - first)


def _split(dataset: Path, name: str) -> Split:
    from pyarrow import parquet

    path = dataset / f"{name}.parquet"
    if not path.is_file():
        return Split(name, path, 0, 0)
    metadata = parquet.read_metadata(path)
    columns = [
        group.column(i)
        for group in map(metadata.row_group, range(metadata.num_row_groups))
        for i in range(metadata.num_columns)
    ]
    texts = (column.total_uncompressed_size for column in columns if column.path_in_schema.endswith(".content"))
    return Split(name, path, int(metadata.num_rows), sum(texts))


def _settings(values: Mapping[str, Any], splits: Sequence[Split]) -> str:
    """sha256 of what decides the rows' tokens, as far as the job tells."""
    decisive = [values.get(name) for name in DECISIVE]
    text = json.dumps([decisive, [split.rows for split in splits]], ensure_ascii=False, sort_keys=True)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def _kept(folder: Path, split: Split, settings: str) -> dict[int, Account]:
    """The accounts of the whole shards that an earlier attempt left; everything else in their folder is removed."""
    place = folder / split.name
    place.mkdir(exist_ok=True)
    kept: dict[int, Account] = {}
    for number in range(split.shards):
        path = shard_file(folder, split.name, number)
        if not path.exists():
            continue
        try:
            shard = Shard(path)
            shard.verify()
            account = Account(**shard.facts)
            if (shard.settings, shard.shards, account.kept) != (settings, split.shards, len(shard)):
                raise shard.damaged("of other rows or settings")
            kept[number] = account
        except (CorruptArtifact, TypeError) as error:
            log.warning("%s: made anew", error)
    whole = {shard_file(folder, split.name, number).name for number in kept}
    for entry in place.iterdir():
        if entry.name not in whole:
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    return kept


def _facts(folder: Path, splits: Sequence[Split], accounts: Sequence[Mapping[int, Account]]) -> dict[str, Any]:
    whole = Account()
    rows: dict[str, int] = {}
    tokens: dict[str, int] = {}
    lengths: dict[str, dict[str, float]] = {}
    for split, shards in zip(splits, accounts, strict=True):
        account = Account()
        for number in sorted(shards):
            account.add(shards[number])
        whole.add(account)
        rows[split.name] = account.kept
        tokens |= {
            split.name: account.tokens,
            f"{split.name}_learned": account.learned,
            f"{split.name}_replies_cut": account.cut,
        }
        lengths[split.name] = _lengths(TokenRows(folder, split.name))
    for line in whole.refused:
        log.warning("%s", line)
    return {
        "layout": told(whole.layout, whole.thoughts),
        "rows": rows,
        "tokens": tokens,
        "lengths": lengths,
        "longest": whole.longest,
        "truncated": sum(whole.truncated.values()),
        "truncated_by": whole.truncated,
        "dropped": whole.dropped,
    }


def _lengths(rows: TokenRows) -> dict[str, float]:
    """Tokens a row: mean, and the shortest length that half, 95 % and 99 % of the rows do not exceed."""
    if not len(rows):
        return {}
    quantiles = np.quantile(rows.lengths, (0.5, 0.95, 0.99), method="inverted_cdf")
    shown = dict(zip(("p50", "p95", "p99"), map(int, quantiles), strict=True))
    return {"mean": round(float(rows.lengths.mean()), 1), **shown}


if __name__ == "__main__":
    # by its own name, not __main__: other processes must find the classes that this one sends them
    from tasks.models import tokenizing

    main(tokenizing.run)
