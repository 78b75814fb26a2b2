"""Loops over a model's own cache: draw continuations, stream them, score given ones. Token ids in, token ids out.

Letters: B rows, T slots of prompts, N slots of new tokens, V vocabulary.
"""
