"""Other people's tokenizers, read from their files; one kind a module, and in `files` what they share."""
