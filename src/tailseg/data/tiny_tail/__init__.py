"""tiny_tail: the embedded data set, drawn from a seed, long-tailed like LVIS and written in its format.

A class is a shape with a surface, such as "striped star". Surfaces are patterns: color varies freely within a class
and tells nothing. Rare classes share their shape with one frequent class and their surface with another. Scale,
rotation, aspect, bend, color, light and blur vary; objects hide one another, and masks hold what is seen. As in LVIS,
each image lists some classes that are known to be absent, and a few whose objects are not all annotated.

The validation draw is flatter than the training draw, so that the AP of rare classes rests on at least eight images
each; the frequency groups are those of the training draw.
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
