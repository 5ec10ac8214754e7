"""The section of a bundle's README on servers: the files of this bundle, and the servers that support it."""

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
`python serve_onnxruntime.py` serves `model.onnx` over HTTP with only ONNX Runtime and NumPy (`pip install onnxruntime numpy`): a plain
route, which accepts {content}, and the KServe v2 protocol. The first lines of the program list its limits.

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
There are no samples for the KServe v2 protocol: each golden row contains a value that is not finite, which JSON does not support.
"""

_TRITON = """
`triton/` is a model repository: `tritonserver --model-repository=$PWD/triton`. Its model files are hard links to the files above.
"""

_TRITON_BATCHES = """\
Triton combines the rows of requests into batches of up to {rows:,} rows (`max_batch_size`).
"""

_TRITON_ALONE = """\
It runs each request separately (`max_batch_size: 0`), because {reason}.
"""

_PACKED = (
    "it would have to combine the elements and the lengths of rows. `recprune-export compress --padded N` writes a file with matrices as "
    "inputs, which Triton can batch"
)

_TRITON_SAMPLES = """\
It expects one number per row in the shape [rows, 1]: `samples/triton-request.json` is such a request,
`samples/triton-response.json` the response.
"""

_INFERENCE_SERVICE = """\
`kserve/inference-service.yaml` is an `InferenceService` of KServe, which runs Triton: upload `triton/`, and fill in its location as
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
            else "the output of a row depends on other rows"
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
        text += "The Triton repository contains only `model.onnx`.\n"
    return text
