"""The stages that make a base model and a tokenised data set ready for training."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tasks import schema
from tasks.artifacts import BaseModelArtifact, Dataset, TokenizedDataset
from tasks.errors import DataError
from tasks.launch import run_worker
from tasks.models import families, resolving
from tasks.models.config import ModelConfig, TokenizationConfig
from tasks.store import Store


def base_model(config: ModelConfig, *, store: Store) -> BaseModelArtifact:
    """Resolve the base model; a native folder is used in place, a GGUF file is dequantised once."""
    place = resolving.locate(config)
    assert place is not None  # it was allowed to download
    gguf = place.is_file()
    files = [place] if gguf else resolving.model_files(place)
    inputs = dict(zip([f.name for f in files], store.file_digests(files), strict=True))

    def work(folder: Path) -> Mapping[str, Any]:
        weights = place
        if gguf:
            run_worker("tasks.models.dequantizing", folder, {"gguf": str(place)}, label="dequantize")
            weights = folder / "model"
        facts = resolving.shape_facts(weights)
        family = families.recognise(weights).__name__.rpartition(".")[2]
        return {"weights": "" if gguf else str(place), "family": family, **facts}

    made = store.publish(
        BaseModelArtifact, name=config.name, revision=1, config={"gguf": gguf}, inputs=inputs, work=work
    )
    # the same files may lie elsewhere today: the record's folder is only where they were when it was written
    return made.model_copy(update={"weights": made.path / "model" if gguf else place})


def tokenize(
    config: TokenizationConfig, dataset: Dataset, base: BaseModelArtifact, *, store: Store
) -> TokenizedDataset:
    """Render and tokenise the training and validation splits once for this base model."""

    def work(folder: Path) -> Mapping[str, Any]:
        job = {"dataset": str(dataset.path), "model": str(base.weights), **schema.identity(config)}
        facts = run_worker("tasks.models.tokenizing", folder, job, label="tokenize")
        if facts["rows"]["train"] == 0:
            raise DataError(f"no training row is left after tokenising: {facts['dropped'] or 'the data set is empty'}")
        return facts

    return store.publish(
        TokenizedDataset,
        name=f"{dataset.source}-{base.family}",
        revision=1,
        config=schema.identity(config),
        inputs={"dataset": dataset.fingerprint, "base_model": base.fingerprint},
        work=work,
    )
