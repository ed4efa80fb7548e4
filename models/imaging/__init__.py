"""From an untrusted file's bytes to pixels: the one decoder that fitting and serving share.

``bytes -> decode -> Image``. Nothing here imports the rest of the project. It lives below
``service`` because a guard must be fitted, attacked and evaluated on exactly the pixels that
it will see when it serves.
"""

from models.imaging.image import Decoding, Image, ImageProblem, Limits, Problem
from models.imaging.rendering import RenderingPolicy

__all__ = ["Decoding", "Image", "ImageProblem", "Limits", "Problem", "RenderingPolicy"]
