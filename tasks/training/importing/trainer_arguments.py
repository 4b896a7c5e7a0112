"""The arguments of transformers' Trainer, with the defaults that it takes where a file is silent.

Source: transformers.TrainingArguments, https://huggingface.co/docs/transformers/main_classes/trainer
"""

from __future__ import annotations

from tasks.errors import ConfigError
from tasks.training.importing.account import Account, Settings

_LINES = "one line per interval goes to metrics.jsonl and MLflow"
_TOKENS = "rows are tokenised once and read from a memory map"
_PLACE = "artifacts lie under paths.root, by their content"
_CHECKS = "checkpoints are always written with checksums, and in safetensors"
_EVALUATION = "evaluation is a stage of its own: replies are always generated, in batches of evaluation.batch_tokens"
_DISTRIBUTED = "hardware=ddp|zero2|zero3 says how devices work together"
_TRACKING = "tracking=... says where runs are recorded"

#: Why -> keys that decide nothing here.
_WITHOUT_EFFECT = {
    _PLACE: "output_dir overwrite_output_dir run_name",
    _TOKENS: "dataloader_num_workers dataloader_pin_memory dataloader_prefetch_factor dataloader_persistent_workers "
    "remove_unused_columns group_by_length length_column_name",
    _LINES: "log_level log_level_replica logging_strategy logging_first_step logging_dir disable_tqdm "
    "log_on_each_node logging_nan_inf_filter",
    _TRACKING: "report_to push_to_hub hub_model_id hub_token hub_strategy",
    _CHECKS: "save_safetensors save_on_each_node save_only_model",
    _EVALUATION: "per_device_eval_batch_size predict_with_generate do_eval do_predict eval_accumulation_steps "
    "generation_num_beams generation_max_length sortish_sampler include_inputs_for_metrics",
    _DISTRIBUTED: "local_rank ddp_find_unused_parameters ddp_backend ddp_bucket_cap_mb ddp_timeout",
    "training is what python -m flows.full and flows.train do": "do_train",
    "the best checkpoint is chosen by the evaluation stage": "load_best_model_at_end",
    "the data source names the metric that checkpoints are chosen by": "metric_for_best_model greater_is_better",
    "after an interruption training goes on at the same row": "ignore_data_skip",
    "a loss that is not finite is always caught": "debug",
    "torch's own is used": "half_precision_backend",
    "remote code is never run; models are converted to native classes": "trust_remote_code",
    "use_cpu is its newer name: set hardware=cpu": "no_cuda",
}
#: Keys that would change the result and that nothing here answers to, and the value with which they change nothing.
_DIFFERENT = {
    "label_smoothing_factor": 0,
    "neftune_noise_alpha": None,
    "adafactor": False,
    "full_determinism": False,
    "lr_scheduler_kwargs": None,
    "torch_compile": False,
    "dataloader_drop_last": False,
    "auto_find_batch_size": False,
}
_OPTIMIZERS = {
    "adamw_torch": "adamw",
    "adamw_torch_fused": "adamw",
    "adamw_hf": "adamw",
    "adamw_apex_fused": "adamw",
    "paged_adamw_32bit": "adamw",
    "adamw_bnb_8bit": "adamw_8bit",
    "adamw_8bit": "adamw_8bit",
    "adamw_torch_8bit": "adamw_8bit",
    "paged_adamw_8bit": "paged_adamw_8bit",
}
_ADAM = {"weight_decay": 0.0, "adam_beta1": 0.9, "adam_beta2": 0.999, "adam_epsilon": 1e-8, "max_grad_norm": 1.0}
_SCHEDULES = ("linear", "cosine", "constant", "constant_with_warmup", "cosine_with_min_lr")


def read(old: Settings, account: Account) -> None:
    """Map the Trainer's arguments; what is left in ``old`` afterwards is the program's own."""
    _batch(old, account)
    steps = _length(old, account)
    _rate(old, account, steps)
    _optimizer(old, account)
    _precision(old, account)
    _saving(old, account)
    for reason, keys in _WITHOUT_EFFECT.items():
        for key in keys.split():
            if key in old:
                account.drop(old.name(key), old.take(key), reason)
    for key, harmless in _DIFFERENT.items():
        if key in old:
            value = old.take(key)
            same = value == harmless or str(value).lower() == str(harmless).lower()
            account.drop(old.name(key), value, "its usual value" if same else "no counterpart: the result will differ")
            if not same:
                account.tell(f"{old.name(key)}={value!r} has no counterpart: the result will differ")


def _batch(old: Settings, account: Account) -> None:
    given = "per_device_train_batch_size" in old or "per_gpu_train_batch_size" in old
    rows = old.whole("per_device_train_batch_size") or old.whole("per_gpu_train_batch_size") or 8
    given_accumulation = "gradient_accumulation_steps" in old
    accumulated = old.whole("gradient_accumulation_steps", 1) or 1
    name, total = old.name("per_device_train_batch_size"), rows * accumulated * account.devices
    arithmetic = f"{rows} rows x {accumulated} accumulated x {account.devices} device{'s' * (account.devices > 1)}"
    (account.map if given else account.default)(name, rows, "training.batch_size", total, arithmetic)
    if given_accumulation:
        account.map(old.name("gradient_accumulation_steps"), accumulated, "training.batch_size", total, arithmetic)


def _length(old: Settings, account: Account) -> int | None:
    """Epochs or steps; returns the steps where they are known."""
    steps, epochs = old.whole("max_steps", -1) or -1, old.number("num_train_epochs")
    if steps > 0:
        account.map(old.name("max_steps"), steps, "training.max_steps")
        rows = steps * int(account.values["training.batch_size"])
        account.tell(f"{old.name('max_steps')}={steps} is the length of the run: {rows:,} rows, whatever the data hold")
        if epochs is not None:
            account.drop(old.name("num_train_epochs"), epochs, "max_steps goes before it")
            account.tell(f"{old.name('num_train_epochs')}={epochs} had no effect beside max_steps={steps}")
        return steps
    if epochs is None:
        account.default(old.name("num_train_epochs"), 3.0, "training.epochs")
        account.tell("neither max_steps nor num_train_epochs is set: the Trainer's default, 3 epochs, is written out")
    else:
        account.map(old.name("num_train_epochs"), epochs, "training.epochs")
    return None


def _rate(old: Settings, account: Account, steps: int | None) -> None:
    rate = old.number("learning_rate")
    if rate is None:
        account.default(old.name("learning_rate"), 5e-5, "training.learning_rate")
        account.tell(f"{old.name('learning_rate')} is not set: the Trainer's default, 5e-5, is written out")
    else:
        account.map(old.name("learning_rate"), rate, "training.learning_rate")
    schedule = old.take("lr_scheduler_type")
    if schedule is None:
        account.default(old.name("lr_scheduler_type"), "linear", "training.lr_scheduler_type")
    elif schedule in _SCHEDULES:
        account.map(old.name("lr_scheduler_type"), schedule, "training.lr_scheduler_type")
    else:
        raise ConfigError(
            f"{old.name('lr_scheduler_type')}={schedule!r}: no counterpart; allowed: {', '.join(_SCHEDULES)}: set one "
            "of them in the old file, or remove the key"
        )
    ratio, warm = old.number("warmup_ratio"), old.whole("warmup_steps", 0) or 0
    if warm and steps:
        account.map(old.name("warmup_steps"), warm, "training.warmup_ratio", round(warm / steps, 6), f"of {steps}")
        if ratio:
            account.drop(old.name("warmup_ratio"), ratio, "warmup_steps goes before it")
    elif warm:
        account.drop(old.name("warmup_steps"), warm, "a share of the steps is wanted and their number is not known")
        account.tell(f"{old.name('warmup_steps')}={warm}: set training.warmup_ratio to it over the steps of the run")
        account.default("warmup_ratio", 0.0, "training.warmup_ratio")
    elif ratio is not None:
        account.map(old.name("warmup_ratio"), ratio, "training.warmup_ratio")
    else:
        account.default(old.name("warmup_ratio"), 0.0, "training.warmup_ratio")


def _optimizer(old: Settings, account: Account) -> None:
    name = old.take("optim")
    if name is None:
        account.default(old.name("optim"), "adamw_torch", "training.optimizer", "adamw")
    elif name in _OPTIMIZERS:
        account.map(old.name("optim"), name, "training.optimizer", _OPTIMIZERS[name])
    else:
        account.default(old.name("optim"), name, "training.optimizer", "adamw", "no counterpart")
        account.tell(f"{old.name('optim')}={name!r} has no counterpart: adamw is written; the result will differ")
    for key, usual in _ADAM.items():
        value = old.number(key)
        if value is None:
            account.default(old.name(key), usual, f"training.{key}")
        else:
            account.map(old.name(key), value, f"training.{key}")
    seed = old.whole("seed")
    if seed is None:
        account.default(old.name("seed"), 42, "training.seed")
    else:
        account.map(old.name("seed"), seed, "training.seed")
    if "data_seed" in old:
        account.drop(old.name("data_seed"), old.take("data_seed"), "training.seed decides the order of the rows too")


def _precision(old: Settings, account: Account) -> None:
    asked = [key for key in ("bf16", "fp16") if key in old and old.flag(key)]
    if asked:
        account.map(old.name(asked[0]), True, "training.precision", asked[0])
    else:
        account.default("fp16, bf16", False, "training.precision", "auto", "half-precision base weights on a GPU")
    for key in ("tf32", "fp16_full_eval", "bf16_full_eval", "fp16_opt_level", "fp16_backend"):
        if key in old:
            account.drop(old.name(key), old.take(key), "training.precision decides")
    if "use_cpu" in old:
        cpu = old.flag("use_cpu")
        account.choose("hardware", "cpu" if cpu else "auto", old.name("use_cpu"), cpu)
    if "gradient_checkpointing" in old:
        on = old.flag("gradient_checkpointing")
        account.map(old.name("gradient_checkpointing"), on, "training.gradient_checkpointing", "full" if on else "none")
    if "gradient_checkpointing_kwargs" in old:
        account.drop(
            old.name("gradient_checkpointing_kwargs"), old.take("gradient_checkpointing_kwargs"), "always non-reentrant"
        )
    resumed = old.take("resume_from_checkpoint")
    if resumed is not None:
        account.drop(
            old.name("resume_from_checkpoint"), resumed, "a run that was stopped goes on by itself; see training.resume"
        )


def _saving(old: Settings, account: Account) -> None:
    save_by, save = old.take("save_strategy"), old.whole("save_steps")
    if save_by == "steps":
        account.drop(old.name("save_strategy"), save_by, "checkpoints are always counted in steps")
    elif save_by is not None:
        account.drop(old.name("save_strategy"), save_by, "checkpoints are counted in steps, and one is made at the end")
        account.tell(f"{old.name('save_strategy')}={save_by!r}: set training.save_steps to the steps of an epoch")
    if save is None:
        account.default(old.name("save_steps"), 500, "training.save_steps")
    else:
        account.map(old.name("save_steps"), save, "training.save_steps")
    save = save or 500
    limit = old.whole("save_total_limit")
    if limit is None:
        account.default(old.name("save_total_limit"), None, "training.save_total_limit", 3, "the old run kept all")
    else:
        account.map(old.name("save_total_limit"), limit, "training.save_total_limit")
    logging = old.whole("logging_steps")
    if logging is None:
        account.default(old.name("logging_steps"), 500, "training.logging_steps")
    else:
        account.map(old.name("logging_steps"), logging, "training.logging_steps")
    named = "eval_strategy" if "eval_strategy" in old else "evaluation_strategy"  # newer and older transformers
    by = old.take(named)
    every = old.whole("eval_steps")
    if by in ("steps", None) and every is not None:
        account.map(old.name("eval_steps"), every, "training.eval_steps", note="the validation loss")
        if every % save:
            account.tell(
                f"{old.name('eval_steps')}={every} is not a multiple of {old.name('save_steps')}={save}: most "
                "evaluations of the old run saw weights that were never saved; here checkpoints are scored themselves"
            )
    else:
        account.default(old.name("eval_steps"), every, "training.eval_steps", None, "with each checkpoint")
    if by is not None:
        account.drop(old.name(named), by, "training.eval_steps says when; null: with each checkpoint")
