"""Maps of families with experts."""
