"""A plan before you pay: the real train step compiled for a named topology with no device, and what it would cost.

Letters: N chips, B rows of a batch, T tokens of a row, L layers. Bytes and FLOPs are of one device and one step unless
they say otherwise; times are in seconds.
"""
