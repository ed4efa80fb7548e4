"""Offline attack generator: adversarial images as an attacker would deliver them.

An attack is one file of ``white_box``, ``black_box``, ``beyond_noise`` or ``guard_aware``: a pure
function and its frozen, serialisable spec, which ``registry`` finds and ``presets`` group;
``third_party`` adapts those of other libraries. They share what varies little: ``objective``
(what is raised), ``ball`` (where it may go), ``gradient`` (the loop), ``access`` (counted passes),
``minimum`` (searches for a smallest change), ``guarded`` (the bundle's graph with gradients).

``work`` is one unit: attack, ``container`` (round, write, decode), ``judge``. ``crew`` does many,
on threads or on Ray; ``part_store`` remembers them; ``generate`` puts them together as
``adversarial`` sets, ``sets`` and ``shards`` on disk. ``campaign`` is what fitting and evaluation
ask for, ``fit_material`` (with ``added_sets``) what a guard is fitted on, ``duel`` two guards
before the same attackers, ``paper_grid`` and ``reproduction`` the experiments of Ma et al. (2021).
``self_check`` doubts the results, ``corruptions`` are the benign shifts that must not raise the
alarm.

Pixels are ``float32[N, H, W, C]`` in grey levels 0 to 255 at the source's resolution, epsilons and
steps are grey levels (1.0 is the literature's 1/255), and a model maps such pixels to class logits
``[N, K]``. Imports torch, ``detectors`` and ``models``; nothing else of the project.
"""
