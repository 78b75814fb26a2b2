"""Encoder-decoders: a text given another. Letters: B batch, T tokens, S of the source or keys, D width, H heads."""
