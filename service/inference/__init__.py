"""The Open Inference Protocol, version 2, as KServe, Triton and their clients speak it.

``images`` takes the one input apart, ``outputs`` makes tensors and parameters of the answers and
``describe`` says both to whoever asks; they know no transport. ``body`` is the HTTP form with the
binary tensor extension, ``endpoints`` its addresses; ``grpc_server`` is the same over gRPC and is
imported only where a port is set for it.

Every image goes through ``service.gateway``, as those of ``POST /diagnose`` do.
Source: https://kserve.github.io/website, "Open Inference Protocol (V2)"; Triton Inference Server,
"Binary Tensor Data Extension".
"""
