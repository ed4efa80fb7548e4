"""Attacks that follow the model's gradients, one file each."""
