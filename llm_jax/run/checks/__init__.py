"""Sections that do not go together, refused before any work, with the reason and the nearest that works."""
