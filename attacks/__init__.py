"""Offline attack generator: adversarial images as an attacker would deliver them.

An attack is one file: a pure function (``fgsm``, ``bim``, ``pgd``, ``cw_linf``) and its frozen,
serialisable spec. They share one loop (``gradient``) and differ in what they raise (``objective``),
where they start and how far they step. ``presets`` names the published parameters; ``deliver``
puts the result on a container's integer grid and through the service's own decoder; ``generate``
runs specs over a set of images into ``AdversarialSet``; ``shards`` stores one; ``corruptions`` are
the benign shifts that must not raise the alarm.

Pixels are ``float32[N, H, W, C]`` in grey levels 0 to 255 at the source's resolution, epsilons and
steps are grey levels (1.0 is the literature's 1/255), and a model maps such pixels to class logits
``[N, K]``. Imports torch and ``models``; nothing else of the project.
"""
