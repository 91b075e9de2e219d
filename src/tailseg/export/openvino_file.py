"""Writes an exported ONNX file in OpenVINO's format."""

from pathlib import Path
from tempfile import TemporaryDirectory

from tailseg.export.onnx_file import METADATA
from tailseg.lazy import needs_extra

with needs_extra("export"):
    import onnx
    import openvino


def write_openvino(onnx_path: Path, file: Path) -> None:
    """Converts an ONNX file that `write_onnx` wrote into an XML file and a .bin file next to it.

    Weights stay in float32. OpenVINO's own default is float16.

    Args:
        onnx_path: the ONNX file.
        file: the XML file to write.

    Raises:
        OSError: the files cannot be written.
    """
    settings = {entry.key: entry.value for entry in onnx.load(onnx_path, load_external_data=False).metadata_props}
    model = openvino.convert_model(onnx_path)
    model.set_friendly_name(METADATA)
    model.set_rt_info(settings[METADATA], [METADATA])
    # in the same folder: a rename is then the whole file or nothing
    with TemporaryDirectory(dir=file.parent) as folder:
        written = Path(folder) / file.name
        openvino.save_model(model, written, compress_to_fp16=False)
        written.with_suffix(".bin").replace(file.with_suffix(".bin"))
        written.replace(file)
