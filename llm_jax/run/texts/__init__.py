"""Text in, text out: prompts encoded, continued by `decode`, decoded; and conversations, turn by turn."""
