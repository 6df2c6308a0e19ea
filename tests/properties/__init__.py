"""Properties and unseen inputs: hostile values in the families of the golden vectors, against float64 restatements."""

import hypothesis

# The same examples in every run, none of them kept on disk, and no clock in the verdict: XLA compiles inside a test.
REPEATABLE = hypothesis.settings(
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
