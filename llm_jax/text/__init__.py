"""Text in, tokens out: normalisation, tokenizers and token shards; never imports jax.

Axis letters: V vocabulary, N tokens of a corpus.
"""
