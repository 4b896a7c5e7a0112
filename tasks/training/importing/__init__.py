"""Reads the configuration files and command lines of the programs that this project replaces.

``account`` keeps what became of every old key; a module a program maps its keys; ``writing`` makes the YAML. Knows the
names of this project's keys, not their schemas: whoever writes the result composes and validates it first.
"""
