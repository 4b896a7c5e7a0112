"""Importing a base model: reading foreign checkpoints, converting them shard by shard, verifying the result."""
