"""A banner over a held image, as a softcopy presentation state (PS3.3 sections A.33.1, A.33.2).

It shows the image as the image itself asks to be shown; taking the state off takes the banner
off. The pixels are not touched.
"""

from __future__ import annotations

from copy import copy
from typing import Any, Final

from highdicom.content import PresentationLUTTransformation
from highdicom.enum import PresentationLUTShapeValues
from highdicom.pr import (
    AnnotationUnitsValues,
    ColorSoftcopyPresentationState,
    GraphicAnnotation,
    GraphicLayer,
    GrayscaleSoftcopyPresentationState,
    TextObject,
)
from PIL import ImageCms
from pydicom import Dataset

from service.pacs.authorship import Made, made, placement
from service.pacs.banner import banner
from service.pacs.finding import Finding
from service.pacs.routes import Emitted

LABEL: Final = "AI GUARD"
_BOX: Final = (0.02, 0.02, 0.98, 0.10)
"""Left, top, right, bottom, as shares of the displayed area."""


def presentation_state(subject: Dataset, finding: Finding) -> Made:
    """Build the state; for a multi-frame instance the banner is over the held frames.

    Args:
        subject: attributes of the judged instance.
    """
    several = "NumberOfFrames" in subject
    subject = _with_frames(subject)
    layer = GraphicLayer("GUARD", order=1, description="Verdict of the AI guard")
    text = TextObject(
        text_value=banner(finding), units=AnnotationUnitsValues.DISPLAY, bounding_box=_BOX
    )
    numbers = sorted(frame.number for frame in finding.held_frames)
    annotation = GraphicAnnotation(
        referenced_images=[subject],
        graphic_layer=layer,
        text_objects=[text],
        referenced_frame_number=numbers if several else None,
    )
    given: dict[str, Any] = {
        "referenced_images": [subject],
        "content_label": LABEL,
        "content_description": "Verdict of the AI guard",
        "graphic_annotations": [annotation],
        "graphic_layers": [layer],
        **placement(subject, finding, Emitted.GSPS),
    }
    built: Dataset
    if subject.SamplesPerPixel == 1:
        inverse = subject.PhotometricInterpretation == "MONOCHROME1"
        shape = PresentationLUTShapeValues.INVERSE if inverse else None
        built = GrayscaleSoftcopyPresentationState(
            presentation_lut_transformation=PresentationLUTTransformation(
                presentation_lut_shape=shape or PresentationLUTShapeValues.IDENTITY
            ),
            **given,
        )
    else:
        built = ColorSoftcopyPresentationState(icc_profile=_srgb(), **given)
    return made(built, subject, finding, Emitted.GSPS)


def _srgb() -> bytes:
    """What samples are taken for that no profile describes: display values, as decoding does.
    As an input profile (ICC.1:2022 section 7.2.5), the class that DICOM asks for (PS3.3 C.11.15);
    the tags are those of a display profile of the same matrix and curves."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    profile[12:16] = b"scnr"
    profile[84:100] = bytes(16)  # the profile's own digest, which may be left out
    return bytes(profile)


def _with_frames(subject: Dataset) -> Dataset:
    """The same with the functional groups that highdicom looks into where a class may have
    frames, empty."""
    whole = copy(subject)
    whole.NumberOfFrames = int(subject.get("NumberOfFrames") or 1)
    whole.SharedFunctionalGroupsSequence = [Dataset()]
    whole.PerFrameFunctionalGroupsSequence = [Dataset()] * whole.NumberOfFrames
    return whole
