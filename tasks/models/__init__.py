"""Base models: resolving, converting, rendering, tokenising and loading them."""
