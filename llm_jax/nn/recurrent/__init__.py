"""Layers that read a text with a state of one size, whatever its length: cells and state-space models."""
