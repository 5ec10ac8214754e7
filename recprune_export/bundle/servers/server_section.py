"""The section of a bundle's README on servers: only what this bundle has, and what serves it."""

from collections.abc import Collection

from recprune_export.bundle.servers.kserve import (
    INFERENCE_SERVICE,
    REQUEST,
    TRITON_REQUEST,
    list_sample_names,
    make_served_name,
)
from recprune_export.bundle.servers.server_files import ServerFiles
from recprune_export.bundle.servers.serving_program import PREDICT_REQUEST, PROGRAM_FILE
from recprune_export.markdown_text import code_span

_PROGRAM = """
`python serve_onnxruntime.py` serves `model.onnx` over HTTP with ONNX Runtime and NumPy alone (`pip install onnxruntime numpy`): a plain
route, which takes {content}, and the KServe v2 protocol. The first lines of the program state its limits.

```sh
curl -H 'Content-Type: application/json' -d @samples/predict-request.json http://localhost:8000/predict
```
"""

_KSERVE = """
`samples/kserve-request.json` is the golden request for a server of the KServe v2 protocol, `samples/kserve-response.json` the response, in
the shapes above:

```sh
curl -H 'Content-Type: application/json' -d @samples/kserve-request.json http://localhost:8000/v2/models/{model}/infer
```
"""

_NO_KSERVE = """
There are no samples for the KServe v2 protocol: each golden row has a value that is not finite, which JSON does not have.
"""

_TRITON = """
`triton/` is a model repository: `tritonserver --model-repository=$PWD/triton`. Its model files are hard links to those above.
"""

_TRITON_BATCHES = """\
Triton joins the rows of requests to batches of up to {rows:,} rows (`max_batch_size`).
"""

_TRITON_ALONE = """\
It runs each request alone (`max_batch_size: 0`), because {reason}.
"""

_PACKED = (
    "it would have to join the elements of rows and the ends of these. `recprune-export compress --padded N` makes a file of matrices, "
    "which Triton batches"
)

_TRITON_SAMPLES = """\
It takes one number for each row in the shape [rows, 1]: `samples/triton-request.json` is such a request,
`samples/triton-response.json` the response.
"""

_INFERENCE_SERVICE = """\
`kserve/inference-service.yaml` is an `InferenceService` of KServe, which runs Triton: upload `triton/`, and fill in its place as
`storageUri`.
"""

_DERIVED = """
{command} serves it as {model}{samples}.
"""


def describe_servers(
    bundle: str, servers: ServerFiles, derived: Collection[str], *, encoding: bool, packed: bool, shared: bool
) -> str:
    """Return the section as Markdown.

    `derived` are the other ONNX files; `packed`: an input has its elements in one tensor for all rows; `shared`: one has one row for
    all.
    """
    names, text = servers.files, ""
    if PROGRAM_FILE in names and PREDICT_REQUEST in names:
        text += _PROGRAM.format(content="raw values" if encoding else "the inputs by name")
    if REQUEST in names:
        text += _KSERVE.format(model=make_served_name(bundle))
    elif PROGRAM_FILE in names:
        text += _NO_KSERVE
    if servers.triton_batch is not None:
        text += _TRITON
        reason = (
            _PACKED
            if packed
            else "all rows of a request share an input"
            if shared
            else "a row's answer depends on other rows"
        )
        text += (
            _TRITON_BATCHES.format(rows=servers.triton_batch)
            if servers.triton_batch
            else _TRITON_ALONE.format(reason=reason)
        )
    text += _TRITON_SAMPLES if TRITON_REQUEST in names else ""
    text += _INFERENCE_SERVICE if INFERENCE_SERVICE in names else ""
    if PROGRAM_FILE in names:
        for file in derived:
            request = list_sample_names(file)[0]
            samples = f"; {code_span(request)} is its golden request" if request in names else ""
            text += _DERIVED.format(
                command=code_span(f"python serve_onnxruntime.py --file {file}"),
                model=code_span(make_served_name(bundle, file)),
                samples=samples,
            )
    if derived and servers.triton_batch is not None:
        text += "Triton's repository has `model.onnx` alone.\n"
    return text
