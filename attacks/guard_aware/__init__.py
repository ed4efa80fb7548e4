"""Attacks on model and guard together, by someone who holds the bundle: one file each."""
