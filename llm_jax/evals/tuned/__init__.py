"""How models are judged that were tuned for a task: by which of two answers they prefer, by the spans they point at."""
