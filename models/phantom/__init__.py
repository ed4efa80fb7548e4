"""The chest phantom: procedural frontal radiographs, made by the physics that makes real ones.

Nobody was imaged. Two classes: ``CLEAR``, and ``OPACITY`` with one to four consolidations in the
lungs. The *patient* has the anatomy; the *image* has opacities, breath, pose, exposure and noise.
``anatomy`` is what is in the beam's way, ``radiograph`` the beam and the detector, ``dataset``
a labelled folder of them. NumPy only.
"""

from models.phantom.dataset import CLASSES, write_dataset
from models.phantom.radiograph import radiograph

__all__ = ["CLASSES", "radiograph", "write_dataset"]
