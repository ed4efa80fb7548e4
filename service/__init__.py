"""The gateway: an image comes in over HTTP, a verdict goes out, and both are on record.

The walk, one direction: ``body`` reads the bytes, ``diagnose`` takes them through
``models.imaging.decode``, ``batcher`` (the engine), ``detectors.calibrate``, ``decide`` and
``records``, and ``answers`` says the result.

``app`` wires; ``settings`` is the one table of options; ``guard`` is one bundle being served.
``gateway`` walks it for every door; ``question`` is who asks and until when.
``endpoints`` is ``POST /diagnose``, ``batch`` the same for many images, ``inference`` the Open
Inference Protocol, ``cases`` the held images, ``operations`` what operators poll. ``monitor`` looks
again and again, beside the requests: ``drift`` (with ``drift_records``) at whether the false-alarm
promise is kept, ``canaries`` at whether the guard still detects; ``watches`` wires these.
``trace_context`` is by which ids a request is followed, ``tracing`` and ``otlp`` send its spans.
``query_history`` (with ``query_disguises``, ``query_store``, ``query_store_redis``) links each
image to those before it.
``pacs`` receives, screens and reports in DICOM; ``workers`` are several processes on one port;
``client`` is for callers of ours.
``auth``, ``admission`` and ``linger`` stand at the door; ``problems`` is every refusal;
``metrics`` and ``logs`` tell what happened without saying to whom. ``cli`` is the command line.

Imports ``detectors`` and ``models``, never torch.
"""

import os

# Before numpy: the products of a request are small and run in several decoder threads at once,
# where OpenBLAS's own threads would spin for the same cores (three quarters of the CPU on two).
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
