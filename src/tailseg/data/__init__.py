"""Reading LVIS and COCO files, sampling, augmentation, loading."""
