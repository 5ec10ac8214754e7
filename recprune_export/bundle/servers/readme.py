"""README of a bundle: how to load the model and call it, in ten lines."""

from collections.abc import Mapping, Sequence
from textwrap import fill
from typing import Any

from recprune_export.bundle.servers.server_files import ServerFiles
from recprune_export.bundle.servers.server_section import describe_servers
from recprune_export.data.encoding.canonical_text import CANONICAL_TEXT_RULE
from recprune_export.markdown_text import code_span, escape_markdown
from recprune_export.onnx.runtime.runtime_requirements import RuntimeRequirements
from recprune_export.onnx.runtime.session import SessionOptions
from recprune_export.output_meaning import read_meanings
from recprune_export.program.requests.jagged_inputs import (
    LENGTHS_SUFFIX,
    describe_jagged_inputs,
    is_packed,
    list_program_inputs,
    make_file_signature,
)
from recprune_export.program.signature import BATCH, Signature

NO_SERVER_FILES = ServerFiles({})

_TEMPLATE = """\
# {name}

A recommender as an ONNX model for CPU, written by recprune-export. `pip install onnxruntime` runs it;
`pip install recprune-export-runtime`, without PyTorch, has the command `recprune-export verify .`, which checks it.
{figures}
```python
{code}
```

| | name | dtype | shape | ids |
|---|---|---|---|---|
{rows}

{meanings}

{runtime}{weights}{rules}{ignored}{models}{towers}\
The batch may have any size.{shared} `samples/outputs.npz` contains the outputs for `samples/inputs.npz`; `manifest.json` contains the
tolerances, sizes, quality and latency{report}. `model.pt2` is the same model for PyTorch
(`torch.export.load`), to train on; {arguments}.
{encoding}{serving}{fewer_bits}{rows_shared}"""

_CODE = """\
import os

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # before the import: ONNX Runtime sends no usage data
import numpy as np
import onnxruntime as ort

{session}
session = ort.InferenceSession("model.onnx", options, providers=["CPUExecutionProvider"])
request = dict(np.load("samples/inputs.npz"))  # your own arrays, named and typed as below
names = [output.name for output in session.get_outputs()]
response = dict(zip(names, session.run(names, request)))"""

_ENCODING = (
    "`encoding.json` encodes raw values into these inputs: ids by field, and the mean and scale of the numeric columns (`columns` records\n"
    "how each column of the training file was read).\n" + fill(CANONICAL_TEXT_RULE, 125) + "\n\n"
    "`samples/raw-rows.json` tests an encoder in any language: unusual rows, their encoded inputs, and the outputs.\n"
)

_PREDICT = (
    "`recprune-export predict . --data rows.parquet -o scores.parquet` encodes and scores the rows of a file\n"
    "(`pip install 'recprune-export-runtime[predict]'`).\n"
)

_WEIGHTS = "The weights are in `{file}`, which ONNX Runtime maps into memory: copy it together with `model.onnx`.\n\n"

_FEWER_BITS = """
Weights are stored in fewer bits ({forms}). The golden outputs are those of this file; on CPUs with other int8 instructions they
may differ within the tolerances of the manifest.
"""

_TOWERS = """\
`{user}` and `{item}` are the two towers of the model: `{formula}`, with `user` and `item` their vectors of {width} numbers
({similarity}). The score increases with the product, so items can be ranked by it.

"""

_INDEX = """\
`{vectors}` contains the vectors of {count:,} items, `{ids}` their ids (column `{column}`). `{file}` is an index of them ({library})
that finds {recall:.1%} of the exact {k} best items of a user:

```python
import faiss
index, ids = faiss.read_index("{file}"), np.load("{ids}")
tower = ort.InferenceSession("{user}", options, providers=["CPUExecutionProvider"])
(vectors,) = tower.run(None, dict(np.load("{samples}")))
products, rows = index.search(vectors, {k})
best = ids[rows]
```

"""

_VECTORS = "`{vectors}` contains the vectors of {count:,} items, `{ids}` their ids (column `{column}`).\n\n"

_ROWS_SHARED = """
Ids that are rare in the training data share one row of their table; the model accepts the same ids as before:

{tables}
"""


def render_readme(
    name: str,
    signature: Mapping[str, Any],
    session: SessionOptions,
    *,
    scores: Mapping[str, Any],
    encoding: Mapping[str, Any] | None,
    ignored: Sequence[str] = (),
    shared_rows: Mapping[str, Any] | None = None,
    quantization: Mapping[str, Any] | None = None,
    servers: ServerFiles = NO_SERVER_FILES,
    figures: Sequence[str] = (),
    omissions: Sequence[str] = (),
    report: bool = True,
    weights: str | None = None,
    models: Mapping[str, Any] | None = None,
    towers: Mapping[str, Any] | None = None,
    runtime: Mapping[str, Any] | None = None,
) -> str:
    """Return the README of a bundle.

    `signature`: result of `Signature.to_dict()`; `session`: options in the code that loads the model; `scores` and
    `quantization`: these sections of the manifest; `encoding`: this section, where the bundle contains `encoding.json`; `ignored`:
    inputs, or columns of inputs, that the model does not read; `shared_rows`: result of `RowReport.to_dict()`; `servers`: the
    files for servers; `figures`: sentences such as those of `describe_figures`; `omissions`: sentences in Markdown on what was
    not measured; `report`: whether the bundle contains `report.html`; `weights`: the name of the file of external weights;
    `models`, `runtime` and `towers`: these sections of the manifest.
    """
    whole = Signature.from_dict(signature)
    inputs = make_file_signature(whole).to_dict()["inputs"]
    kinds = (("input", inputs), ("output", signature["outputs"]))
    rows = "\n".join(_row(kind, tensor) for kind, tensors in kinds for tensor in tensors)
    shared = [code_span(tensor["name"]) for tensor in signature["inputs"] if tensor.get("shared")]
    shared_note = f" One row of {', '.join(shared)} applies to all candidates of a request." if shared else ""
    return _TEMPLATE.format(
        name=escape_markdown(name),
        rows=rows,
        rules=describe_input_rules(signature["inputs"], encoding=encoding is not None),
        meanings="\n".join(
            f"- {code_span(output)} is {escape_markdown(text)}."
            for output, text in describe_outputs(signature, scores).items()
        ),
        code=render_calling_code(session),
        ignored=_describe_ignored(ignored),
        shared=" ".join(filter(None, [shared_note, describe_jagged_inputs(whole)])),
        encoding=_describe_encoding(encoding, whole),
        arguments=_describe_arguments(whole),
        fewer_bits=_describe_quantization(quantization),
        serving=describe_servers(
            name,
            servers,
            models or {},
            encoding=encoding is not None,
            packed=any(is_packed(i) for i in whole.inputs),
            shared=bool(shared),
        ),
        rows_shared=_describe_shared_rows(shared_rows),
        figures="".join(
            f"\n- {sentence.removesuffix('.')}." for sentence in (*map(escape_markdown, figures), *omissions)
        )
        + ("\n" if figures else ""),
        report=", and `report.html` shows them" if report else "",
        weights=_WEIGHTS.format(file=weights) if weights else "",
        models=_describe_models(models or {}),
        towers=_describe_towers(towers or {}, models or {}),
        runtime="" if runtime is None else f"`model.onnx` {RuntimeRequirements.from_dict(runtime).describe()}.\n\n",
    )


def _describe_models(models: Mapping[str, Any]) -> str:
    """Return the purpose, inputs and outputs of each derived ONNX file, as Markdown."""
    parts = []
    for name, entry in models.items():
        signature, samples = Signature.from_dict(entry["signature"]), entry["samples"]
        inputs = make_file_signature(signature).to_dict()["inputs"]
        rows = [_row("input", tensor) for tensor in inputs]
        rows += [_row("output", tensor) for tensor in entry["signature"]["outputs"]]
        parts += [
            f"{code_span(name)} {escape_markdown(entry['purpose'])}. It {RuntimeRequirements.from_dict(entry['runtime']).describe()}.",
            f"{code_span(samples['outputs'])} contains the outputs for {code_span(samples['inputs'])}.\n",
            "| | name | dtype | shape | ids |\n|---|---|---|---|---|",
            "\n".join(rows) + "\n",
        ]
    return "\n".join(parts) + "\n" if parts else ""


def _describe_encoding(encoding: Mapping[str, Any] | None, signature: Signature) -> str:
    """Return the purpose of `encoding.json`; `predict` is mentioned if it accepts rows for this model."""
    if encoding is None:
        return ""
    takes_rows = "history" not in encoding["vocabularies"] or encoding["vocabularies"]["history"]["unknown"] is not None
    return _ENCODING + (_PREDICT if takes_rows and answers_rows(signature) else "")


def answers_rows(signature: Signature) -> bool:
    """Return whether every row of a file is a row of a request, and every output has one row for it."""
    by_row = all(o.shape[:1] == (BATCH,) and all(isinstance(n, int) for n in o.shape[1:]) for o in signature.outputs)
    return by_row and not any(i.shared for i in signature.inputs)


def _describe_arguments(signature: Signature) -> str:
    names = ", ".join(code_span(i.name) for i in list_program_inputs(signature))
    jagged = next((i.name for i in signature.inputs if i.jagged is not None and i.jagged.present == i.name), None)
    lengths = "" if jagged is None else (
        f". There, {code_span(jagged)} contains the elements of all rows, one after another, and "
        f"{code_span(jagged + LENGTHS_SUFFIX)} the number "
        "of elements in each row"
    )  # fmt: skip
    return f"its arguments are positional, in this order: {names}{lengths}"


def _describe_towers(towers: Mapping[str, Any], models: Mapping[str, Any]) -> str:
    """Return the description of the files of `split`, with code that searches the index."""
    if not towers:
        return ""
    user, items, index = towers["user"]["file"], towers.get("items"), towers.get("index")
    text = _TOWERS.format(
        user=user,
        item=towers["item"]["file"],
        formula=towers["formula"],
        width=towers["width"],
        similarity=towers["similarity"],
    )
    if items is None:
        return text
    of_items = {"vectors": items["file"], "ids": items["ids"], "count": items["count"], "column": items["id_column"]}
    if index is None:
        return text + _VECTORS.format(**of_items)
    samples = models[user]["samples"]["inputs"]
    of_index = {name: index[name] for name in ("file", "library", "recall", "k")}
    return text + _INDEX.format(**of_items, **of_index, user=user, samples=samples)


def render_calling_code(session: SessionOptions) -> str:
    """Return Python code that loads the model of a bundle and runs it, to be executed in the directory of the bundle."""
    return _CODE.format(session=session.code())


def _describe_quantization(quantization: Mapping[str, Any] | None) -> str:
    choices = [*quantization["layers"], *quantization["tables"]] if quantization else []
    forms = sorted({choice["form"] for choice in choices} - {"fp32"})
    return _FEWER_BITS.format(forms=", ".join(forms)) if forms else ""


def _describe_shared_rows(report: Mapping[str, Any] | None) -> str:
    if not report:
        return ""
    table_rows = [f"| {code_span(t['table'])} | {t['before']:,} | {t['after']:,} |" for t in report["tables"]]
    text_lines = ["| table | rows before | rows |", "|---|---|---|", *table_rows, ""]
    for key, description in (("with_rare", "such an id"), ("without_rare", "none")):
        quality = report[key]
        figures = "; ".join(
            f"{which} " + ", ".join(f"{escape_markdown(metric)} {value:.4f}" for metric, value in metrics.items())
            for which, metrics in quality["metrics"].items()
        )
        text_lines.append(f"- {quality['rows']:,} test rows with {description}: {figures or 'not measured'}")
    return _ROWS_SHARED.format(tables="\n".join(text_lines))


def _describe_ignored(fields: Sequence[str]) -> str:
    if not fields:
        return ""
    return f"Ignored, but still required: {', '.join(map(code_span, fields))}. These fields were pruned; send any valid ids.\n\n"


def describe_input_rules(inputs: Sequence[Mapping[str, Any]], *, encoding: bool) -> str:
    """Describe, as a paragraph of Markdown, how the graph handles ids and numbers out of range; empty without rules.

    Without an `encoding`, no id is known to represent unknown values.

    >>> describe_input_rules([{"name": "user", "ids": [[0, 9]], "bad_ids": [0]}], encoding=True)
    'An id out of range is replaced by an unknown value: 0 in `user`.\\n\\n'
    """
    sentences, replaced, limits = [], [], []
    for tensor in inputs:
        ids = sorted({bad for bad in tensor.get("bad_ids", ()) if isinstance(bad, int)})
        if ids:
            replaced.append(f"{', '.join(map(str, ids))} in {code_span(tensor['name'])}")
        if tensor.get("number_limit") is not None:
            limits.append(f"±{tensor['number_limit']:g} in {code_span(tensor['name'])}")
    if replaced:
        meaning = "an unknown value" if encoding else "the lowest id, since no id for unknown values is known"
        sentences.append(f"An id out of range is replaced by {meaning}: {'; '.join(replaced)}.")
    if any("error" in tensor.get("bad_ids", ()) for tensor in inputs):
        sentences.append(
            "A request with an id out of range fails completely; in a server batch, so do the requests of other clients."
        )
    if limits:
        sentences.append(
            f"Numbers are clipped, infinity included: {'; '.join(limits)}. NaN is passed to the model and affects only its row."
        )
    return " ".join(sentences) + "\n\n" if sentences else ""


def _row(kind: str, tensor: Mapping[str, Any]) -> str:
    shape = ", ".join(str(size) for size in tensor["shape"])
    return f"| {kind} | {code_span(tensor['name'])} | {tensor['dtype']} | ({shape}) | {describe_id_ranges(tensor.get('ids', ()))} |"


def describe_outputs(signature: Mapping[str, Any], scores: Mapping[str, Any]) -> dict[str, str]:
    """Return the meaning of each output, by name."""
    names = [output["name"] for output in signature["outputs"]]
    return {name: meaning.meaning for name, meaning in read_meanings(scores, names).items()}


def describe_id_ranges(ranges: Any) -> str:
    """Format the valid ids of an input.

    >>> describe_id_ranges([]), describe_id_ranges([[0, 9]]), describe_id_ranges([[0, 9], None])
    ('', '0 to 9', 'by column: 0 to 9; no ids')
    """
    words = ["no ids" if pair is None else f"{pair[0]} to {pair[1]}" for pair in ranges]
    return words[0] if len(words) == 1 else f"by column: {'; '.join(words)}" if words else ""
