"""The embedded demonstration model: its weights, and the programs that made them.

Importing this package loads nothing heavy; `FOLDER` is what `AutoModelForCausalLM.from_pretrained` takes.
"""

from pathlib import Path

FOLDER = Path(__file__).parent / "weights"
