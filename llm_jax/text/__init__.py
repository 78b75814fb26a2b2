"""Text in, tokens out: normalisation, tokenizers, chat templates and token shards; never imports jax.

Axis letters: V vocabulary, N tokens of a corpus.
"""
