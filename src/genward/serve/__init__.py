"""Guards around a live pipeline: policy, chain, call, calibration and the audit record."""
