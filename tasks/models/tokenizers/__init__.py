"""Tokenizer files in the hub's older forms made into fast tokenizers that agree with them id for id."""
