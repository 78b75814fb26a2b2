"""What objectives hide and move of a text, in numpy: pure functions of rows and of uniform numbers, a row at a time.

Letters: B rows, T tokens of the longest text, S of the longest source, E ids that an objective adds.
"""
