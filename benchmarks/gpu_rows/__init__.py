"""The programs of `benchmarks/gpu.py`: `suite`, `memory`, `speedrun` and `recorded`.

The suite's rows are functions of `steps` and `parts`, ours, and of `torch_steps` and `torch_parts`, which stand beside
them; `figures` says what a measurement is, `settings` what is measured at which size, `table` what a reader sees.
`pieces` trains in pieces, for the speedrun and the recorded runs.
"""
