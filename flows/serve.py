"""Serve a model in the foreground, OpenAI-compatible: the release in service, or any model or checkpoint folder.

    python -m flows.serve                       # what the last deployment released
    python -m flows.serve path=DIR serving.port=8001
"""
