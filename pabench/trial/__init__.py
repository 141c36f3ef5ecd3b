"""``pabench.check``: a callable of this program judged, for scripts, notebooks and tests."""
