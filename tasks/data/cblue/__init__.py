"""CBLUE's raw task files as PromptCBLUE rows: labels, templates, and what is drawn by chance."""
