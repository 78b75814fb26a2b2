"""What a model costs: FLOPs a token and a step, and what a chip gives."""
