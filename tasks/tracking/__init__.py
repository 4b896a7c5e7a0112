"""Tracking: what ran, with what, and what came of it, in MLflow; training never waits for it or fails with it."""
