"""Encoder-decoders of Hugging Face."""
