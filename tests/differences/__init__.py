"""The size of intended differences from other implementations, measured for docs/parity.md, which has the words."""
