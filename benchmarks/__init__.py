"""The figures this project promises, each a script that prints JSON: `python -m benchmarks` runs them all."""
