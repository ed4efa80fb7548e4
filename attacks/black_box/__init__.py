"""Attacks that ask the model questions or bring a model of their own, one file each.

They send files: every query is rounded to the container's grid before the model sees it, counted
and, if wanted, kept.
"""
