"""Layers: maths as functions of arrays, and Linen modules that only declare parameters and wire those functions.

Letters: B batch, T time, S source time, D width, H heads, G key/value heads, K head size, F hidden width,
V vocabulary, L layers.
"""
