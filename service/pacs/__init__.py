"""The PACS side: instances come in as hospitals send them, and none that was acknowledged is lost.

The walk in: ``receiver`` (C-STORE), ``stow`` (STOW-RS) and ``pull`` (WADO-RS) check what they are
given and put the data set, as received, into the ``spool``. Whoever judges takes from there with
``Spool.waiting``, and says ``done`` once its own record is durable.

``received`` says where an instance came from; ``part10`` wraps a data set as a file and takes one
apart; ``spool_index`` remembers what was seen; ``implementation`` is who we say we are.

DICOM networking (the ``pacs`` extra) is imported only by what speaks it.
"""
