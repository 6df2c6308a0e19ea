"""The verbs of the command line: VERB.py has the flags and `main`, VERB_*.py its work where that is long."""
