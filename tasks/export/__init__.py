"""Export: turns the chosen checkpoint into what a server loads, and proves that it still says the same."""
