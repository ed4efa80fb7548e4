"""Detectors: from the model's own features to a calibrated suspicion.

Torch half: ``features`` (what a detector sees), ``detector`` (what one is), one file each for
``kd``, ``lid`` (and ``tle``, the released code's estimate), ``mahalanobis``, ``dfeat``, ``qfeat``,
``agreement`` (with ``squeeze``), ``neighbour_labels``, ``recovery``, ``least_significant``,
``relative``, ``margin``, ``witness`` (with ``student``), ``residual`` (with ``residual_network``;
``side_networks`` teaches both networks); ``quality``; ``fusion``; ``guard`` (the fused graph as a
module); ``fit``. They stand on ``logistic``, ``forest`` and ``svm`` (scikit-learn models as
tensors), on ``cues`` (numbers learnt from benign images, standardised out of sample) with
``whitening``, and on ``bank`` (whom a detector keeps, and whom it must not compare).

``trial`` is a bundle before the test images: ``evaluate`` reports it, ``comparison`` sets two side
by side (with ``paired``, ``speed`` and ``gates``), ``release_gate`` holds one against the last
release. What a report rests on: ``splits``, ``statistics``, ``null_test`` and, for its comparison
column, ``paper_protocol``. ``reproduction`` holds the analyses of Ma et al. (2021) and their page.

A second stage looks at the most suspicious again: ``second_graph`` and ``second_stage_fit`` make
it; ``second_stage``, ``draws`` and ``staged_engine``, torch-free, run it; ``standalone_stage``
makes it a part of the one graph that ``standalone`` writes for other servers.

Torch-free half, used by serving: ``bundle`` (manifest, hashes, files), ``calibrate`` (conformal
p-values), ``drift`` (are they still uniform?) and ``canaries`` (files whose verdict is known;
``canary_choice`` chooses them). Imports ``models``; never ``attacks`` or ``service``.
"""
