"""Compatibility of signatures: NEW must accept the requests of BASE and return the outputs of BASE."""

from dataclasses import replace

from recprune_export.evidence import Verdict
from recprune_export.gate.artifact import Artifact
from recprune_export.gate.findings import Finding
from recprune_export.program.requests.jagged_inputs import is_packed
from recprune_export.program.signature import BATCH, Axis, IdRange, Input, Jagged, Output, Signature


def compare_signatures(new: Artifact, base: Artifact) -> Finding:
    """Return a failure, which names each change, if requests or answers of BASE are incompatible with NEW."""
    # A range read from a graph may be smaller than the true one: compare ranges of the same source only.
    same_source = new.is_bundle == base.is_bundle
    changes = find_breaking_changes(new.signature, base.signature, ranges=same_source)
    if changes:
        return Finding("signature", Verdict.FAILS, " ".join(changes), limit="requests and outputs of BASE")
    reason = "NEW accepts the requests of BASE and returns the same outputs."
    if not same_source:
        reason += " The ranges of ids were not compared, since only one of the two artifacts is a bundle."
    return Finding("signature", Verdict.HOLDS, reason, limit="requests and outputs of BASE")


def find_breaking_changes(new: Signature, base: Signature, *, ranges: bool = True) -> tuple[str, ...]:
    """Return a sentence for each change that breaks clients of `base`."""
    sentences = []
    inputs, outputs = {i.name: i for i in new.inputs}, {o.name: o for o in new.outputs}
    added = [i for i in new.inputs if i.name not in {old.name for old in base.inputs}]
    for old in base.inputs:
        if old.name in inputs:
            sentences += _find_input_changes(inputs[old.name], old, ranges)
            continue
        twin = next((i for i in added if (i.dtype, i.shape) == (old.dtype, old.shape)), None)
        if twin is None:
            sentences.append(f"Input '{old.name}' is missing.")
        else:
            added.remove(twin)
            sentences.append(f"Input '{old.name}' is missing; was it renamed to '{twin.name}'?")
    sentences += [f"Input '{i.name}' is new, but existing clients do not send it." for i in added]
    for output in base.outputs:
        sentences += _find_output_changes(outputs.get(output.name), output)
    return tuple(sentences)


def make_common_signature(new: Signature, base: Signature) -> Signature | None:
    """Return a signature of requests that both models accept: all inputs, ids valid in both; None if there is none."""
    new_inputs = {i.name: i for i in new.inputs}
    merged = []
    for old in base.inputs:
        other = new_inputs.pop(old.name, old)
        if other.dtype != old.dtype or _layout(other) != _layout(old) or not _accepts(*_fixed_shapes(other, old)):
            return None
        if len(other.ids) > 1 and len(old.ids) > 1 and len(other.ids) != len(old.ids):
            return None
        ids = tuple(_intersect(*pair) for pair in _align_ranges(other, old))
        if any(pair is not None and pair[0] > pair[1] for pair in ids):
            return None
        merged.append(Input(old.name, old.dtype, old.shape, ids, old.observed, jagged=old.jagged))
    return Signature((*merged, *new_inputs.values()), base.outputs)


def _find_input_changes(new: Input, old: Input, ranges: bool) -> list[str]:
    sentences = []
    if new.dtype != old.dtype:
        sentences.append(f"Input '{old.name}' has dtype {new.dtype} instead of {old.dtype}.")
    if _layout(new) != _layout(old):
        return [*sentences, f"Input '{old.name}' is represented by other tensors of the file, or in another form."]
    if not _accepts(*_fixed_shapes(new, old)):
        sentences.append(
            f"Input '{old.name}' has shape {_format_shape(new.shape)} instead of {_format_shape(old.shape)}."
        )
    elif ranges:
        for column, (now, before) in enumerate(_align_ranges(new, old)):
            if _is_narrower(now, before):
                where = f", column {column}" if max(len(new.ids), len(old.ids)) > 1 else ""
                was = "was unbounded" if before is None else f"accepted {before[0]} to {before[1]}"
                assert now is not None
                sentences.append(f"Input '{old.name}'{where} accepts ids {now[0]} to {now[1]}; before, it {was}.")
    return sentences


def _layout(spec: Input) -> Jagged | None:
    """Return how a file takes a jagged input, without the numbers of elements in sampled rows."""
    return None if spec.jagged is None else replace(spec.jagged, counts=(0, 0))


def _fixed_shapes(new: Input, old: Input) -> tuple[tuple[Axis, ...], tuple[Axis, ...]]:
    """Return two shapes; for a jagged input without the number of elements, which varies with the row."""
    if not is_packed(new) or not is_packed(old):
        return new.shape, old.shape
    return (BATCH, *new.shape[2:]), (BATCH, *old.shape[2:])


def _find_output_changes(new: Output | None, old: Output) -> list[str]:
    if new is None:
        return [f"Output '{old.name}' is missing."]
    if new.dtype != old.dtype:
        return [f"Output '{old.name}' has dtype {new.dtype} instead of {old.dtype}."]
    if new.shape != old.shape:
        return [f"Output '{old.name}' has shape {_format_shape(new.shape)} instead of {_format_shape(old.shape)}."]
    return []


def _accepts(new: tuple[Axis, ...], old: tuple[Axis, ...]) -> bool:
    """Return whether every array of shape `old` is valid for shape `new`: a fixed axis may become the batch."""
    return len(new) == len(old) and all(now in (BATCH, before) for now, before in zip(new, old, strict=True))


def _align_ranges(new: Input, old: Input) -> list[tuple[IdRange | None, IdRange | None]]:
    columns = max(len(new.ids), len(old.ids))

    def spread(ids: tuple[IdRange | None, ...]) -> tuple[IdRange | None, ...]:
        return ids if len(ids) == columns else ids * columns if len(ids) == 1 else (None,) * columns

    return list(zip(spread(new.ids), spread(old.ids), strict=True))


def _is_narrower(now: IdRange | None, before: IdRange | None) -> bool:
    return now is not None and (before is None or now[0] > before[0] or now[1] < before[1])


def _intersect(now: IdRange | None, before: IdRange | None) -> IdRange | None:
    if now is None or before is None:
        return now or before
    return max(now[0], before[0]), min(now[1], before[1])


def _format_shape(shape: tuple[Axis, ...]) -> str:
    return f"({', '.join(str(axis) for axis in shape)})"
