"""Families whose parameters are counts or probabilities, which no gradient changes.

Letters: N the order of an n-gram, C how many distinct n-grams a table has room for, W words of 32 bits of a packed one,
M contexts that are looked up at once.
"""
