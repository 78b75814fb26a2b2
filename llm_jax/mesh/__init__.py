"""Where arrays live: mesh shapes, rules from logical names to mesh axes, dtypes and remat; and the hosts.

Only this room and `configs/` name mesh axes; everything else speaks logical names.
"""
