"""Models of other ecosystems, in and out, as streams of (name, array)."""
