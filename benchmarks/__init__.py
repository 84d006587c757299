"""What the promises of the README cost, measured: `python -m benchmarks`."""
