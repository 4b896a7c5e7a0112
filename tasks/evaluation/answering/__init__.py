"""Replies of models: in this process or from a vLLM server; imported by workers."""
