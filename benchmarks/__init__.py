"""Programs that measure: timings and the parity report. Not part of the installed package."""
