"""Shipped configurations; each file has get_config(). See configs/default.py for every key."""
