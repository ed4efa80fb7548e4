"""From an untrusted file's bytes to pixels: the one decoder that fitting and serving share.

``bytes -> decode -> Image``. Nothing here imports the rest of the project. It lives below
``service`` because a guard must be fitted, attacked and evaluated on exactly the pixels that
it will see when it serves.
"""

from models.imaging.image import Image, ImageProblem, Limits, Problem

__all__ = ["Image", "ImageProblem", "Limits", "Problem"]
