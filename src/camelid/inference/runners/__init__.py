"""What computes: the same step on a processor with native kernels, or with torch."""
