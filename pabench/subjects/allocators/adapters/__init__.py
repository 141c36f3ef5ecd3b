"""Page allocators of other projects behind our protocol."""
