"""Programs that print ratios against named peers, measured in one run."""
