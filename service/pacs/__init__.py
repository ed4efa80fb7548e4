"""The PACS side: instances come in as hospitals send them, and none that was acknowledged is lost.

The walk in: ``receiver`` (C-STORE), ``stow`` (STOW-RS, its body through ``multipart``) or ``pull``
(WADO-RS) is given a data set, ``take_in`` reads its ``object_identity``,
checks it and puts it, as received, into the ``spool``. Whoever judges takes from there with
``Spool.waiting``, and says ``done`` once its own record is durable. ``node`` makes all of it from
the settings.

``link`` listens, ``storage_association`` and ``upper_layer`` hold a connection to the bounds of
``link_limits``, ``callers`` says who may, ``tls`` how they prove it, ``sop_classes`` what is
offered to them. ``received`` says where an instance came from; ``part10`` wraps a data set as a
file and takes one apart; ``spool_entry`` is what the spool knows of one instance, ``spool_index``
remembers what was seen, ``pixel_digest`` whether a UID returned with other pixels;
``write_behind`` flushes many files together. ``tally`` counts. ``by_hand`` and ``dicomweb`` speak
to peers, ``requestor`` is how we open an association, ``implementation`` who we say we are.

The walk out: ``screening`` takes from the spool, asks ``routes`` (read by ``route_file``) what to
do, judges each of ``frames``, asks the query history through ``queries``, and writes record, case
and ``parcels`` in one transaction; ``objects`` are the DICOM files that tell of a ``finding``
(one file each: ``structured_report``, ``presentation_state``, ``key_object``,
``secondary_capture``), ``audiences`` what others are told. ``outbox`` holds what is to be sent,
by the states of ``outbox_states``; ``delivery`` sends it with ``senders`` to ``peers``.
``outgoing`` makes all of it from the settings.

DICOM networking (the ``pacs`` extra) is imported only by what speaks it.
"""
