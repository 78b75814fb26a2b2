"""What a run leaves on disk: the workdir, and checkpoints that say when they are damaged.

workdir: the names in it · files: atomic writes, logs, lock · digests: a sum per array that no sharding changes ·
manifest: what a checkpoint holds · arrays: a tree of them by orbax, which only this room imports · stream: the same one
by one · commit: how a step appears and disappears · verify: one step, read and checked · retention: which steps stay ·
processes: agreement between hosts · checkpoint: the door to all this.
"""
