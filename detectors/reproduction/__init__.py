"""The analyses of Ma et al. (*Pattern Recognition* 110, 2021, 107332) on models of our own.

Why such models are easy to attack: ``saliency``, ``loss_landscape``. What an attack does inside:
``class_activation``, ``feature_plane``. Whether the paper's four detectors see it: ``detection``,
by the released protocol and by ours, with the null test that tells the two apart. ``reading`` runs
a model over images that no file carries (float pixels). ``findings`` is what was found, ``figures``
draws it, ``page`` says it, and ``document`` writes that as Markdown and as HTML.

The attacks come from outside (``attacks.paper_grid``): nothing here imports them.
"""
