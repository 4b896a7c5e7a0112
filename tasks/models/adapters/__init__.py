"""Historical procedures: adapters and encrypted checkpoints of the reference programs made into what loads natively."""
