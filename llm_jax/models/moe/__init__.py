"""Decoders whose layers are mixtures of experts, all or some of them."""
