"""Two runs side by side: what became better, worse, or cannot be told."""
