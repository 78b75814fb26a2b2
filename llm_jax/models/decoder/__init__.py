"""Decoders: each position predicts the next token from those before it."""
