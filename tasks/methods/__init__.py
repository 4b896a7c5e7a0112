"""Fine-tuning methods: one module each, found by its name; what a module offers is in ``_method``."""
