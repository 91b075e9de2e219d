"""The old name of `tailseg.models.optimize`; it still works, with a warning."""

from tailseg.deprecated import names_renamed_in

__getattr__ = names_renamed_in(
    __name__,
    {name: f"tailseg.models.optimize:{name}" for name in ("InferenceConfig", "for_inference", "fold_norms")},
)
