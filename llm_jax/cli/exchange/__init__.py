"""Verbs that bring models from elsewhere, and take them there."""
