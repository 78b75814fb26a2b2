"""Sources, packing, mixing and loading: from named data to batches of host numpy arrays; never imports jax.

The global order is a pure function of (seed, step): a run resumes anywhere in O(1), and every batch is the same for
any number of hosts. Axis letters: B batch, T time, N tokens of a corpus, R rows of a packed corpus.
"""
