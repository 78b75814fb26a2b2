"""Objectives that learn from labels: of texts (classes, numbers) and of tokens (tags); each has a `head`.

Letters: C classes. What a batch brings beside its text is `label` [B] or `tags` [B,T].
"""
