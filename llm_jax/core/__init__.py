"""Types, keys, trees, tables and durations: what every other room may rely on.

Axis letters, used in every signature: B batch, T time, S source time, D width, H heads, G key/value heads,
K head size, F hidden width of the MLP, V vocabulary, E experts, L layers, N tokens (B·T flattened).
"""
