"""Host clocks, GPU specifications and the roofline model."""
