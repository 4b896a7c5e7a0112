"""Training: batches, the loop, checkpoints; one worker for every method.

The loop is our own over accelerate, not transformers' Trainer: row order and dropout are pure functions of seed and
step, so that resuming is exact with little state; checkpoints are committed atomically and verified before use; the
loss is weighted by tokens over the whole batch, whatever the micro-batch or the number of processes. Schedules come
from transformers, device placement and distribution from accelerate, adapters from PEFT.
"""
