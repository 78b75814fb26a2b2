"""Encoders of Hugging Face."""
