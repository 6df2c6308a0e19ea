"""The trainings that `benchmarks/training_parity.py` sets side by side, each a process of its own environment."""
