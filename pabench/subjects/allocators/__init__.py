"""Page allocators under test, and the reference model they are compared with."""
