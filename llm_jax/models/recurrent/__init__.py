"""Recurrent families: their state is of the same size whatever the length of the text."""
