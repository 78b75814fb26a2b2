"""Learners: how a state changes by a batch. Gradient rules compose: accumulate and the like wrap one another."""
