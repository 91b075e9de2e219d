"""`tailseg serve`."""

import contextlib
import webbrowser
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal

import tyro
from rich.markup import escape

from tailseg.cli.common import find_own_code, output, parse, require_run
from tailseg.cli.engines import EngineName, find_exported
from tailseg.cli.predict import choose_threshold
from tailseg.cli.report import write_run_report
from tailseg.files import Output
from tailseg.ranges import Range

if TYPE_CHECKING:
    from tailseg.export.engine import Engine
    from tailseg.inference import Predictor

GPU_BATCH: Final = 8


@dataclass(frozen=True)
class Serve:
    """Serve a run on this machine: its report, a page that detects objects in images that you drop on it, and
    POST /predict for programs, described in /openapi.json.

    The server listens on 127.0.0.1, so other machines cannot reach it. --host 0.0.0.0 opens it to the network. It has
    no passwords: everyone who can reach it can use it.

    examples:
      tailseg serve runs/tiny_gumbel
      tailseg serve runs/tiny_gumbel --port 8080 --open
      tailseg serve exported/model.onnx --engine onnx      a file that tailseg export wrote
    """

    run: Annotated[Path, tyro.conf.Positional, Output("report.html, where there is none")]
    """Folder of the run, which `train` or `convert` wrote. With --engine also the file that `export` wrote."""
    host: str = "127.0.0.1"
    """Address to listen on."""
    port: Annotated[int, Range(ge=0, le=65535)] = 8000
    """Port to listen on; 0 chooses a free one."""
    batch_size: Annotated[int | None, Range(ge=1)] = None
    """The largest number of images of requests at one time that the network gets together; None is 8 on a GPU and 1 on
    a CPU, where batches are not faster."""
    open: bool = False
    """Open the page in a browser."""
    checkpoint: Literal["best", "last"] = "best"
    """The checkpoint with the best AP, or the last one."""
    class_thresholds: bool = True
    """Use the score thresholds of the classes that `tailseg thresholds` stored in the run's folder, if there are some,
    until the user of the page enters one threshold."""
    device: str = "auto"
    """auto uses cuda if it is available, else cpu."""
    engine: EngineName = "torch"
    """What computes the network: torch, or onnxruntime or OpenVINO with the file that `tailseg export` wrote into the
    folder "exported" of the run. Images are then detected one after the other."""
    recipe: str | None = None
    """module:function of your own recipe, if you trained the run with one."""
    module: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """Name of your own Python module that has classes of the run, such as a loss. Can be given several times."""


def run(arguments: Sequence[str]) -> None:
    """Loads the model and answers requests until Ctrl-C."""
    options = parse(Serve, arguments, command="serve")
    exported = find_exported(options)
    require_run(options.run)
    from tailseg.report.server import Service, make_server
    from tailseg.training.device import choose_device

    predictor = load_model(options, exported)
    page = options.run / "report.html"
    report = page.read_bytes() if page.is_file() else None
    threshold = choose_threshold(predictor, None, class_thresholds=options.class_thresholds)
    on_gpu = exported is None and choose_device(options.device).type == "cuda"
    batch_size = options.batch_size or (GPU_BATCH if on_gpu else 1)
    model = options.run.resolve().name
    service = Service(predictor, report, options.host, threshold, model, batch_size)
    server = make_server(service, host=options.host, port=options.port)
    address = f"http://{options.host}:{server.server_address[1]}/"
    where = f"the report: {address}report; " if report is not None else ""
    output().print(
        f"{escape(str(options.run))} at [bold]{address}[/] ({where}for programs: {address}openapi.json). "
        "Press Ctrl-C to stop"
    )
    if options.open:
        webbrowser.open(address)
    with server, contextlib.suppress(KeyboardInterrupt):
        server.serve_forever()


def load_model(options: Serve, exported: Path | None) -> "Predictor | Engine":
    """Loads the run in torch, and writes its report where there is none; or opens its exported file."""
    if exported:
        from tailseg.export.engine import Engine

        return Engine(exported)
    from tailseg.inference import Predictor

    base, modules = find_own_code(options.recipe, options.module)
    predictor = Predictor.from_run(
        options.run, checkpoint=options.checkpoint, device=options.device, base=base, modules=modules
    )
    if not (options.run / "report.html").is_file() and (options.run / "results.json").is_file():
        write_run_report(options.run, predictor.recipe)
    return predictor
