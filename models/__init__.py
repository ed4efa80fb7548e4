"""Diagnostic models: what they declare, how they load, how they run.

``spec`` declares a model; ``imaging`` decodes files; ``datasets`` reads labelled folders;
``preprocess``, ``resnet``, ``diagnostic``, ``load`` and ``train`` are the torch half;
``engine``, ``onnx_engine`` and ``torch_engine`` run graphs; ``zoo`` holds the models we ship.

This package imports no other package of the project, and importing it does not import torch.
"""

import os

# ONNX Runtime's wheels report to their maker from 1.29 on, and write an identifier of the machine
# into the home folder, unless this is set before the library is loaded. A machine that reads
# patients' images tells nobody anything.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
