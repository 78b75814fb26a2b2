"""Attention beside that of a decoder to its own text: with learned biases, and to another text."""
