"""Tensors in few bits, as checkpoints of Hugging Face store them, seen as the float32 tensors that they mean."""
