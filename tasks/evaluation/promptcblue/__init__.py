"""PromptCBLUE as its official scorer sees it: structure of answers, scores of structured answers, submission files."""
