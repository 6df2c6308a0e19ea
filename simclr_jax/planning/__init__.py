"""What can be said of a run on hardware that is not here: counted, modelled, compiled ahead of time."""
