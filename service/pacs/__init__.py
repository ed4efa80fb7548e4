"""The PACS side: instances come in as hospitals send them, and none that was acknowledged is lost.

The walk in: ``receiver`` (C-STORE), ``stow`` (STOW-RS, its body through ``multipart``) or ``pull``
(WADO-RS) is given a data set, ``take_in`` reads its ``object_identity``,
checks it and puts it, as received, into the ``spool``. Whoever judges takes from there with
``Spool.waiting``, and says ``done`` once its own record is durable. ``node`` makes all of it from
the settings.

``link`` bounds what an association may send, ``callers`` says who may, ``tls`` how they prove it,
``sop_classes`` what is offered to them. ``received`` says where an instance came from; ``part10``
wraps a data set as a file and takes one apart; ``spool_index`` remembers what was seen,
``pixel_digest`` whether a UID returned with other pixels; ``write_behind`` flushes many files
together. ``tally`` counts. ``by_hand`` and ``dicomweb`` speak to peers, ``implementation`` is who
we say we are.

DICOM networking (the ``pacs`` extra) is imported only by what speaks it.
"""
