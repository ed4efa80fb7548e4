"""A copy of a held image with the banner burned in: seen everywhere, and as large as the image.

For sites whose displays show neither reports nor presentation states.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from highdicom.enum import CoordinateSystemNames, PhotometricInterpretationValues
from highdicom.sc import ConversionTypeValues, SCImage
from PIL import Image as Pillow
from PIL import ImageDraw, ImageFont
from pydicom import Dataset

from service.pacs.authorship import Made, made, placement
from service.pacs.banner import banner
from service.pacs.finding import Finding
from service.pacs.routes import Emitted


def secondary_capture(subject: Dataset, finding: Finding, pixels: npt.NDArray[np.uint8]) -> Made:
    """Build the copy.

    Args:
        subject: attributes of the judged instance.
        pixels: ``uint8[H, W, 1 or 3]``, the gravest frame as it was judged.
    """
    marked = _marked(pixels, banner(finding))
    gray = marked.ndim == 2
    image = SCImage.from_ref_dataset(
        ref_dataset=subject,
        pixel_array=marked,
        photometric_interpretation=PhotometricInterpretationValues.MONOCHROME2
        if gray
        else PhotometricInterpretationValues.RGB,
        bits_allocated=8,
        coordinate_system=CoordinateSystemNames.PATIENT,
        patient_orientation=("L", "F"),  # highdicom wants one; the image's own follows
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        **placement(subject, finding, Emitted.SC),
    )
    image.PatientOrientation = list(subject.get("PatientOrientation") or ())
    image.ConversionType = ConversionTypeValues.WSD.value
    image.BurnedInAnnotation = "YES"
    image.DerivationDescription = "Copy of the image as it was judged, with the verdict burned in"
    return made(image, subject, finding, Emitted.SC)


def _marked(pixels: npt.NDArray[np.uint8], text: str) -> npt.NDArray[np.uint8]:
    """``uint8[H, W]`` or ``uint8[H, W, 3]``: white words on a black bar at the top."""
    picture = Pillow.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    draw = ImageDraw.Draw(picture)
    size = max(8, min(picture.width // 40, 48))
    font = ImageFont.load_default(size)
    # The bar covers half of a thumbnail at most: the image must still be seen.
    step = int(size * 1.25)
    most = max(1, picture.height // 2 // step - 1)
    lines = _wrapped(text, picture.width - 2 * size, font)[:most]
    draw.rectangle((0, 0, picture.width, (len(lines) + 1) * step), fill=0)
    white = 255 if picture.mode == "L" else (255, 255, 255)
    draw.multiline_text((size, size // 2), "\n".join(lines), fill=white, font=font)
    return np.asarray(picture, dtype=np.uint8)


def _wrapped(
    text: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont
) -> list[str]:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines
