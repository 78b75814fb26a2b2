"""Judging models: sums over batches, merged exactly, and errors stated beside each number."""
