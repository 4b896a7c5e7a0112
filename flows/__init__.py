"""The commands: one runnable module a verb, ``python -m flows.<verb>``. Order and the gate, no other logic."""
