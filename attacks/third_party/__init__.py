"""Adapters: attacks of other libraries, run as they are and delivered, judged and stored as ours.

Not part of any preset. They need ``pip install 'lazaret[third-party]'``, and nothing here imports a
library before an attack of its runs.
"""
