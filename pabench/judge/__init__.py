"""Dense float64 truth, error bound, verdict and traffic."""
