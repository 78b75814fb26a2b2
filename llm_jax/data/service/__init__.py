"""A service that answers: its answers to the prompts of a file become examples (Kim & Rush 2016, arXiv:1606.07947)."""
