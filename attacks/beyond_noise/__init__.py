"""Attacks that no small norm bounds, or that one perturbation serves for all: one file each."""
