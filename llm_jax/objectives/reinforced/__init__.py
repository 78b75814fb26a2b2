"""Objectives that learn from rewards of texts that the model wrote itself, a group of them for each prompt."""
