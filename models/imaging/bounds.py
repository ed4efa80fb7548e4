"""The size bounds that every format checks on its header, before a pixel is decoded."""

from __future__ import annotations

from models.imaging.image import ImageProblem, Limits, Problem


def check_size(height: int, width: int, limits: Limits) -> None:
    """Raise ``ImageProblem`` when an image of this size must not be decoded."""
    if height < 1 or width < 1:
        raise ImageProblem(
            Problem.MALFORMED,
            "The file says that the image has no rows or columns. Export it again.",
        )
    if max(height, width) > limits.side or height * width > limits.pixels:
        raise ImageProblem(
            Problem.TOO_LARGE,
            f"The image has {width} x {height} pixels; the bounds are {limits.side} a side and "
            f"{limits.pixels} in all. Send a smaller one.",
        )
    if min(height, width) < limits.smallest_side:
        raise ImageProblem(
            Problem.UNUSABLE,
            f"The image has {width} x {height} pixels; a diagnosis needs at least "
            f"{limits.smallest_side} a side.",
        )
