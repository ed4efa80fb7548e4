"""Lazaret beside other model servers; see ``__main__``."""
