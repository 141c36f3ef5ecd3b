"""Supervised child processes: what may crash or hang runs in one, and its end becomes words."""
