"""Label formats other than COCO and LVIS: readers, one file each, and `registry`, which finds the format of a path.

A reader turns a file or a folder into the sections of a COCO file; `tailseg.annotations.parse` then checks it like any
other. ``docs/decisions/016-label-formats.md`` says what was compared with what.
"""
