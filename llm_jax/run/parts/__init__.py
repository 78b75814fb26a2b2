"""Sections of a configuration that come with a piece of the run: what they build is built here."""
