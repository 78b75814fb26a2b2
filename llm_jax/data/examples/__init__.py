"""Examples: rows of files with named values, and what a model is taught by them.

`records` reads rows, a `form` makes fixed shapes of them: a label, a pair of texts, a conversation, a tag a word.
Axis letters: B batch, T time, S time of the source, N tokens of all examples, n examples.
"""
