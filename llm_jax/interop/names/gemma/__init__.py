"""Gemma 1 to 3 of Hugging Face, one file a generation."""
