"""Objectives that learn from two answers of which one is preferred: to one prompt, `tokens` and `rejected_tokens`."""
