"""What ``/docs`` says about ``POST /diagnose`` beyond its types."""

from __future__ import annotations

from typing import Any

from service.problems import MEDIA_TYPE, TITLES, ProblemDocument, document

_FILE = {"schema": {"type": "string", "format": "binary"}}
_ANSWER: dict[str, Any] = {
    "request_id": "4f1c2d3e5a6b47889900aabbccddeeff",
    "model": {"name": "chest-xray", "version": "1", "bundle": "sha256:9f2b..."},
    "verdict": "flag",
    "route": "adversarial",
    "diagnosis": {
        "label": "pneumonia",
        "probabilities": {"normal": 0.04, "pneumonia": 0.96},
    },
    "guard": {
        "p_value": 0.004,
        "quality_p_value": 0.66,
        "alpha": {"flag": 0.01, "reject": 0.001, "quality": 0.005},
        "reason": "fused p-value at or below flag level",
        "bypass": False,
        "detectors": [{"name": "lid", "score": 1.7, "p_value": 0.003}],
        "second_stage": 5.3,
    },
    "case_id": "0b7c1f5e2d3a4968b1c2d3e4f5a6b7c8",
    "timing_ms": {
        "decode": 3.4,
        "queue": 0.1,
        "infer": 21.0,
        "decide": 0.1,
        "record": 1.2,
        "total": 26.3,
    },
}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The problem answers of an operation."""
    return {
        status: {
            "description": TITLES[status][1],
            "content": {
                MEDIA_TYPE: {
                    "schema": ProblemDocument.model_json_schema(),
                    "example": document(
                        status, "What is wrong and what to do.", "4f1c"
                    ).model_dump(),
                }
            },
        }
        for status in statuses
    }


DIAGNOSE: dict[str, Any] = {
    "summary": "Diagnose one image, unless it must be held",
    "description": (
        "Send a PNG, JPEG or DICOM file, as the `image` part of a form or as the body itself. "
        "A verdict is a result, so `reject` is a 200 too: its `diagnosis` is null. An "
        "`X-Request-ID` of at most 128 letters, digits, `.`, `_`, `:` and `-` is kept. "
        "The answer is on record before it is sent."
    ),
    "responses": {
        200: {"content": {"application/json": {"example": _ANSWER}}},
        **problems(400, 401, 403, 404, 408, 413, 415, 422, 503, 504),
    },
    "openapi_extra": {
        "requestBody": {
            "required": True,
            "content": {
                "multipart/form-data": {
                    "schema": {
                        "type": "object",
                        "required": ["image"],
                        "properties": {"image": {"type": "string", "format": "binary"}},
                    }
                },
                "image/png": _FILE,
                "image/jpeg": _FILE,
                "application/dicom": _FILE,
            },
        }
    },
}

BATCH: dict[str, Any] = {
    "summary": "Diagnose many images, each unless it must be held",
    "description": (
        "Send files as parts named `image` of a form, or lines of JSON (`application/x-ndjson`): "
        '`{"image": "BASE64", "content_type": "image/png"}`. The answer is a stream of lines of '
        "JSON, each sent as soon as its image is judged and on record, not in the order of the "
        "images: `index` says which it is. One bad image is refused alone."
    ),
    "responses": {
        200: {
            "content": {
                "application/x-ndjson": {
                    "example": {"index": 0, "status": 200, "answer": _ANSWER, "problem": None}
                }
            }
        },
        **problems(400, 401, 403, 404, 408, 413, 415, 503, 504),
    },
    "openapi_extra": {
        "requestBody": {
            "required": True,
            "content": {
                "multipart/form-data": {
                    "schema": {
                        "type": "object",
                        "required": ["image"],
                        "properties": {
                            "image": {
                                "type": "array",
                                "items": {"type": "string", "format": "binary"},
                            }
                        },
                    }
                },
                "application/x-ndjson": {"schema": {"type": "string"}},
            },
        }
    },
}
INFER: dict[str, Any] = {
    "summary": "Diagnose images, unless they must be held",
    "description": (
        "The Open Inference Protocol's inference, with its binary tensor extension. The input "
        "`image` is UINT8 [N, height, width, 1 or 3], or BYTES [N] of PNG, JPEG or DICOM files. "
        "Outputs are the diagnosis, withheld (NaN) where an image is rejected, and the guard's "
        'verdict. Errors are `{"error": "a sentence"}`.'
    ),
    "openapi_extra": {
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {
                    "example": {
                        "inputs": [
                            {
                                "name": "image",
                                "datatype": "UINT8",
                                "shape": [1, 16, 16, 1],
                                "data": [127] * 256,
                            }
                        ]
                    }
                },
                "application/octet-stream": _FILE,
            },
        }
    },
}
