"""GGUF, the file of llama.cpp, both ways."""
