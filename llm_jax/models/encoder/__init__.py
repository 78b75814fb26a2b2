"""Families that read a whole text at once: every token sees all others of its text."""
