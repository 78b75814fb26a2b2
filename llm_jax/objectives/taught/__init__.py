"""Learning from what a teacher says of every possible next token."""
