"""The verdict as a Comprehensive 3D SR by TID 1500 (PS3.16): what radiologists' systems index.

One measurement group a frame: the verdict as a private code beside the standard "Quality
Finding", the fused p-value and the levels it was held against, and every detector's score under
its own algorithm identification. It states no diagnosis, and it is preliminary and unverified:
no person has looked.
"""

from __future__ import annotations

from typing import Final

from highdicom.sr import (
    AlgorithmIdentification,
    CodedConcept,
    Comprehensive3DSR,
    Measurement,
    MeasurementReport,
    MeasurementsAndQualitativeEvaluations,
    ObservationContext,
    QualitativeEvaluation,
    SourceImageForMeasurementGroup,
    TrackingIdentifier,
)
from pydicom import Dataset

from service.pacs import coding
from service.pacs.authorship import MANUFACTURER, Made, made, observer, placement
from service.pacs.finding import Finding, FrameFinding
from service.pacs.identifiers import uid
from service.pacs.routes import Emitted

MOST_FRAMES: Final = 32
"""Frames with a group of their own, the gravest first; a report of hundreds would be read by
nobody."""


def structured_report(subject: Dataset, finding: Finding) -> Made:
    """Build the report.

    Args:
        subject: attributes of the judged instance (``service.pacs.attributes``).
    """
    groups = [_group(subject, finding, frame) for frame in finding.frames[:MOST_FRAMES]]
    content = MeasurementReport(
        observation_context=ObservationContext(observer_device_context=observer(finding)),
        procedure_reported=coding.IMAGING_PROCEDURE,
        imaging_measurements=groups,
    )
    report = Comprehensive3DSR(
        evidence=[subject],
        content=content,
        is_complete=True,
        is_final=False,
        is_verified=False,
        coding_schemes=[coding.scheme()],
        **placement(subject, finding, Emitted.SR),
    )
    return made(report, subject, finding, Emitted.SR)


def _group(
    subject: Dataset, finding: Finding, frame: FrameFinding
) -> MeasurementsAndQualitativeEvaluations:
    evaluations = [
        QualitativeEvaluation(coding.VERDICT, coding.VERDICTS[frame.verdict]),
    ]
    if frame.route is not None:
        evaluations.append(QualitativeEvaluation(coding.REASON, coding.REASONS[frame.route]))
        evaluations.append(QualitativeEvaluation(coding.VERDICT, coding.QUALITY_FINDING))
    identity = (str(subject.SOPInstanceUID), str(frame.number), finding.bundle)
    return MeasurementsAndQualitativeEvaluations(
        tracking_identifier=TrackingIdentifier(
            uid=uid("tracking", *identity), identifier=f"Frame {frame.number}"
        ),
        finding_type=coding.SCREENING,
        algorithm_id=AlgorithmIdentification(
            name=f"Lazaret guard of {finding.model}"[:64],
            version=f"{finding.model_version} {finding.bundle}",
            parameters=[
                finding.policy,
                f"pixels {frame.pixels}",
                f"decoding {frame.decoding}",
            ],
            family=coding.ARTIFICIAL_INTELLIGENCE,
            manufacturer=MANUFACTURER,
        ),
        measurements=_measurements(finding, frame),
        qualitative_evaluations=evaluations,
        source_images=[
            SourceImageForMeasurementGroup(
                referenced_sop_class_uid=subject.SOPClassUID,
                referenced_sop_instance_uid=subject.SOPInstanceUID,
                referenced_frame_numbers=[frame.number] if finding.total_frames > 1 else None,
            )
        ],
    )


def _measurements(finding: Finding, frame: FrameFinding) -> list[Measurement]:
    fused = [
        (coding.P_VALUE, frame.p_value),
        (coding.QUALITY_P_VALUE, frame.quality_p_value),
        (coding.LEVELS["flag"], frame.flag_level),
        (coding.LEVELS["reject"], frame.reject_level),
        (coding.LEVELS["quality"], frame.quality_level),
    ]
    found = [_number(name, value) for name, value in fused if value is not None]
    for score in frame.scores:
        by = AlgorithmIdentification(name=score.detector[:64], version=finding.bundle)
        for name, value in ((coding.SUSPICION, score.score), (coding.P_VALUE, score.p_value)):
            if value is not None:
                found.append(_number(name, value, by))
    return found


def _number(
    name: CodedConcept, value: float, by: AlgorithmIdentification | None = None
) -> Measurement:
    # Decimal strings hold 16 characters (PS3.5 section 6.2).
    return Measurement(
        name=name, value=float(f"{value:.8g}"), unit=coding.NO_UNITS, algorithm_id=by
    )
