"""Gemma 1 to 3 (Google DeepMind): decoders with scaled embeddings, GeGLU, and norms by 1 + their scale."""
