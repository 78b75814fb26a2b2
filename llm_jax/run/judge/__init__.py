"""Suites and foreign harnesses put to the model of a run."""
