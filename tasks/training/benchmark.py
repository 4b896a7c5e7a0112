"""Measures training beside what it replaces: the seeds' recipe, and transformers' Trainer with PEFT, on the same rows.

Every measurement is a worker process of its own, so that its peak memory is its own. The recipes take turns, so that
what else a machine does falls on all of them; medians are shown. ``python -m tasks.training.benchmark FOLDER`` is such
a process; with the job that ``flows.bench train job=FOLDER`` writes it is the whole comparison, on a host that holds
torch, transformers and peft only.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tasks.errors import StageError
from tasks.launch import run_worker
from tasks.worker import Job, main

#: What each recipe is, in the order of the table; the first one measured is what the others are compared with.
RECIPES = {
    "seeds": "the seeds' loop: PEFT LoRA, rows collated one at a time, 4 padded to the longest, all logits, AdamW, "
    "activations computed twice, as finetune_hf.py always does",
    "padded": "the same, activations kept",
    "trainer": "transformers' Trainer with PEFT LoRA, 4 rows padded to the longest",
    "llamafactory": "LLaMA-Factory in an environment of its own, the same rows, no packing",
    "ours": "tasks.training.worker as it is",
}


def measure(values: Mapping[str, Any]) -> dict[str, Any]:
    """The comparison that ``values`` (a job) asks for: one result a recipe, and the rate of matrix multiplication.

    Args:
        values: recipes, repeats, profile, and what each measurement needs: model or shape, tokens (a folder of token
            files), method, training, batch_size, micro_batch_size, warmup_steps, steps, device, precision, seed.
    """
    recipes = [name for name in RECIPES if name in values["recipes"]]
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in recipes}
    peak_flops = 0.0
    for repeat in range(values["repeats"]):
        # the device's rate beside every round: the best of all is its peak
        peak_flops = max(peak_flops, _worker(values, "matmul")["flops"])
        for name in recipes[repeat % len(recipes) :] + recipes[: repeat % len(recipes)]:
            one = _llamafactory(values) if name == "llamafactory" else _worker(values, name)
            runs[name].append(_rates(one, values))
    shares = {name: _worker(values, name, profile=True)["products"] for name in recipes if _profiled(values, name)}
    # the same for every recipe: what the result needs, not what a recipe computes besides
    flops = next((run["flops"] for name in recipes for run in runs[name] if any(run["flops"])), (0.0, 0.0))
    results = [_result(name, runs[name], shares.get(name), flops, peak_flops) for name in recipes]
    for result in results:
        result["speed_to_first"] = round(result["tokens_per_second"] / results[0]["tokens_per_second"], 3)
    return {"results": results, "matmul_flops": peak_flops, "setting": _setting(values)}


def table(result: Mapping[str, Any]) -> str:
    """The result as Markdown."""
    lines = [
        "| recipe | tokens/s | learned tokens/s | rows/s | MFU | peak MiB | in products | their rate | to the first |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for r in result["results"]:
        share = r.get("products")
        cells = [
            r["recipe"],
            f"{r['tokens_per_second']:,.1f} ({r['slowest']:,.0f}-{r['fastest']:,.0f})",
            f"{r['learned_tokens_per_second']:,.1f}",
            f"{r['rows_per_second']:.3f}",
            f"{r['mfu']:.1%}",
            f"{r['peak_mib']:,}",
            f"{share['time_share']:.0%}" if share else "",
            f"{share['flops'] / result['matmul_flops']:.0%} of the peak" if share else "",
            f"{r['speed_to_first']:.2f}x",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    said = {name: what for name, what in RECIPES.items() if name in {r["recipe"] for r in result["results"]}}
    peak = f"matrix multiplication: {result['matmul_flops'] / 1e9:,.1f} GFLOP/s, the best of every round"
    return "\n".join([*lines, "", peak, *(f"{name}: {what}" for name, what in said.items())])


def _profiled(values: Mapping[str, Any], name: str) -> bool:
    return bool(values["profile"]) and name in ("seeds", "padded", "ours")


def _worker(values: Mapping[str, Any], name: str, *, profile: bool = False) -> dict[str, Any]:
    """One measurement in a process and a folder of its own."""
    with tempfile.TemporaryDirectory(prefix="weitiao-bench-") as folder:
        job = {**values, "recipe": name, "profiles": profile}
        if profile:
            job["steps"] = values["warmup_steps"] + min(2, values["steps"])
            job["training"] = {**values["training"], "max_steps": job["steps"]}
        label = f"{name} (profile)" if profile else name
        return run_worker("tasks.training.benchmark", Path(folder), job, label=label, device=values["device"])


def _rates(run: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Rates of one run, its first steps left out."""
    steps = run["steps"][values["warmup_steps"] :]
    seconds = sum(step["seconds"] for step in steps)
    rates = {name: sum(step[name] for step in steps) / seconds for name in ("tokens", "learned", "computed")}
    # recipes take the rows in different orders: what their mean row makes is compared, not the rows that were timed
    rates["rows"] = rates["tokens"] / values["mean_row_tokens"]
    if run.get("own_tokens"):
        rates["rows"] = values["batch_size"] * len(steps) / seconds
    losses = {"first_loss": run["steps"][0]["loss"], "last_loss": run["steps"][-1]["loss"]}
    return {**rates, **losses, "peak": run["peak"], "flops": run["flops"]}


def _result(
    name: str,
    runs: Sequence[Mapping[str, Any]],
    products: Any,
    flops: Sequence[float],
    peak_flops: float,
) -> dict[str, Any]:
    middle = {key: statistics.median(run[key] for run in runs) for key in runs[0] if key != "flops"}
    useful = middle["tokens"] * flops[0] + middle["learned"] * flops[1]
    return {
        "subject": "train",
        "recipe": name,
        "tokens_per_second": round(middle["tokens"], 2),
        "learned_tokens_per_second": round(middle["learned"], 2),
        "rows_per_second": round(middle["rows"], 4),
        "slowest": round(min(run["tokens"] for run in runs), 2),
        "fastest": round(max(run["tokens"] for run in runs), 2),
        "padding": round(1 - middle["tokens"] / max(middle["computed"], 1e-9), 4),
        "mfu": round(useful / peak_flops, 4),
        "peak_mib": round(max(run["peak"] for run in runs) / 2**20),
        "first_loss": round(middle["first_loss"], 4),
        "last_loss": round(middle["last_loss"], 4),
        "repeats": len(runs),
        **({"products": products} if products else {}),
    }


def _setting(values: Mapping[str, Any]) -> dict[str, Any]:
    names = (
        "batch_size",
        "micro_batch_size",
        "warmup_steps",
        "steps",
        "device",
        "precision",
        "shape",
        "method",
        "rows",
    )
    return {name: values.get(name) for name in (*names, "mean_row_tokens", "longest_row_tokens")}


# --- within a worker ------------------------------------------------------------------------------------------------


def run(job: Job) -> Mapping[str, Any]:
    name = job.values.get("recipe")
    if name is None:
        return measure({**job.values, "tokens": str(job.folder / job.values["tokens"])})
    if name == "matmul":
        import torch

        from tasks.training import speed

        return {"flops": speed.matmul_rate(torch.device(job.values["device"]), job.values["precision"])}
    from tasks.training.watch import Watch

    watch = Watch(job)
    if name == "ours":
        _ours(job, watch)
    else:
        from tasks.training import baselines

        baselines.train(name, job, watch)
    return watch.result()


def _ours(job: Job, watch: Any) -> None:
    """The training worker's own run, with a watch on its steps."""
    from tasks.training import random_model, speed, worker

    class Watched(worker.Run):
        def _step(self, step: int) -> tuple[float, int, int] | None:
            watch.begin()
            outcome = super()._step(step)
            assert outcome is not None, "a signal stopped the measurement"
            loss, tokens, learned = outcome
            watch.note(tokens, learned, loss)
            return outcome

        def _validate(self, *, judges: bool) -> None:
            watch.end()
            super()._validate(judges=judges)

        def _save(self, interval: Any) -> None:
            watch.end()
            super()._save(interval)

    with random_model.in_place(job.values):
        training = Watched(job)
        training.train()
    watch.flops = speed.flops_per_token(training.model, recomputed=False)


# --- another program ------------------------------------------------------------------------------------------------


def _llamafactory(values: Mapping[str, Any]) -> dict[str, Any]:
    """LLaMA-Factory's own training of the same rows, by the Python of its own environment."""
    given = values["llamafactory"]
    with tempfile.TemporaryDirectory(prefix="weitiao-bench-") as name:
        folder = Path(name)
        shutil.copyfile(given["rows"], folder / "rows.json")
        columns = {"prompt": "instruction", "query": "input", "response": "output"}
        about = {"rows": {"file_name": "rows.json", "formatting": "alpaca", "columns": columns}}
        (folder / "dataset_info.json").write_text(json.dumps(about), encoding="utf-8")
        arguments = {
            "stage": "sft", "do_train": True, "model_name_or_path": values["model"], "dataset": "rows",
            "dataset_dir": str(folder), "template": given["template"], "finetuning_type": "lora", "lora_rank": 8,
            "lora_alpha": 32, "lora_dropout": 0.1, "lora_target": "all", "cutoff_len": given["cutoff_len"],
            "output_dir": str(folder / "out"), "per_device_train_batch_size": values["micro_batch_size"],
            "gradient_accumulation_steps": values["batch_size"] // values["micro_batch_size"],
            "learning_rate": values["training"]["learning_rate"], "lr_scheduler_type": "linear",
            "max_steps": values["steps"], "logging_steps": 1, "save_strategy": "no", "report_to": "none",
            "packing": False, "seed": values["seed"], "trust_remote_code": False, "preprocessing_num_workers": 1,
            "overwrite_cache": True, "bf16": values["precision"] == "bf16", "fp16": values["precision"] == "fp16",
        }  # fmt: skip
        (folder / "arguments.json").write_text(json.dumps(arguments), encoding="utf-8")
        script = Path(__file__).with_name("llamafactory_run.py")
        variables = {
            **os.environ,
            "HF_HUB_OFFLINE": "1",
            "DISABLE_VERSION_CHECK": "1",
            "TOKENIZERS_PARALLELISM": "false",
        }
        if values["device"] == "cpu":
            variables |= {"CUDA_VISIBLE_DEVICES": "", "OMP_WAIT_POLICY": "PASSIVE"}
        with (folder / "log").open("wb") as log:
            code = subprocess.run(
                [given["python"], str(script), str(folder)], env=variables, stdout=log, stderr=log, check=False
            ).returncode
        if code or not (folder / "steps.json").is_file():
            last = (folder / "log").read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
            raise StageError(f"llamafactory: exit code {code}: {' '.join(last)[:300]}")
        return dict(json.loads((folder / "steps.json").read_text(encoding="utf-8")))


if __name__ == "__main__":
    main(run)
