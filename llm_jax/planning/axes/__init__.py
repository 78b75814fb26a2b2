"""What each mesh axis costs by formula: what it splits, what it sends, how long it idles.

`slice`, `data`, `fsdp`, `expert` and `stage` split the rows of a batch, `context` its positions; `fsdp`, `tensor`,
`expert` and `stage` split parameters. Bytes are those of one device and one step; n is the size of an axis.
"""
