"""How much two texts share: words, n-grams, ROUGE, BLEU, chrF."""
