"""The rows of `benchmarks/gpu_suite.py`: what each measures, one function a row.

`figures` says what a measurement is and how time is told, `settings` what is measured at which size, `table` what a
reader sees. `steps` and `parts` are ours, `torch_steps` and `torch_parts` what stands beside it. `rows` is the list.
"""
