"""Dense float64 truth, per-element error bound, verdicts, traffic."""
