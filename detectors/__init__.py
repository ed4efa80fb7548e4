"""Detectors: from the model's own features to a calibrated suspicion.

Torch half: ``features`` (what a detector sees), ``detector`` (what one is), one file each for
``kd``, ``lid``, ``mahalanobis``, ``dfeat``, ``qfeat``, ``agreement``; ``fusion``; ``guard`` (the
fused graph as a module); ``export``; ``fit``; ``evaluate``.

Torch-free half, used by serving: ``bundle`` (manifest, hashes, files) and ``calibrate``
(conformal p-values). Imports ``models``; never ``attacks`` or ``service``.
"""
