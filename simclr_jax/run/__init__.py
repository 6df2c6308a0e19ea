"""What needs a working directory or a mesh: from a config to a trained, evaluated run."""
