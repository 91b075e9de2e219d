"""tiny_tail: the embedded data set. It is drawn from a seed, long-tailed like LVIS and in LVIS's format.

A class is a shape with a surface, such as "striped star". Surfaces are patterns. Colors vary within a class and give no
information. A rare class has the shape of one frequent class and the surface of another. Scale, rotation, aspect ratio,
bend, color, light and blur vary. Objects hide one another, and masks have only the visible part. As in LVIS, each image
lists some absent classes, and a few classes that are not exhaustively annotated.

The validation set is flatter than the training set: the AP of a rare class uses at least eight images. The frequency
groups are those of the training set.
"""

from typing import TYPE_CHECKING

from tailseg.data.tiny_tail.cache import is_tiny_tail, prepare
from tailseg.lazy import on_demand

if TYPE_CHECKING:
    from tailseg.data.tiny_tail.plan import PRESETS, ObjectClass, Preset
    from tailseg.data.tiny_tail.write import generate
else:
    __getattr__, __dir__ = on_demand(__name__, {"plan": ("PRESETS", "ObjectClass", "Preset"), "write": ("generate",)})

__all__ = ["PRESETS", "ObjectClass", "Preset", "generate", "is_tiny_tail", "prepare"]
