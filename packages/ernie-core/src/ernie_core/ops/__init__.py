"""Op sets: the arithmetic that model code calls, in plain torch or in fused kernels."""
