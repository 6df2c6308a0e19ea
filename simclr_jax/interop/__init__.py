"""Weights in and out of this package: our variables by name, and the names and files of other programs.

What belongs here: names, layouts and files. Which network is built from them is for the entry points to decide.
"""
