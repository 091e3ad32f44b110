"""Report sections of the benchmarks, one module per benchmark."""
