"""What an evaluation or a comparison found, as JSON, Markdown and pictures."""
