"""Tasks whose answers a program can check: where their items come from, and how they are asked."""
