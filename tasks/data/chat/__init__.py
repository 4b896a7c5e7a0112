"""Chat logs and exports: their layouts, their texts, and the dialogues that are cut from them."""
