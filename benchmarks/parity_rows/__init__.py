"""What `make parity` measures beside the tests: peers that run beside ours, and the size of intended differences."""
