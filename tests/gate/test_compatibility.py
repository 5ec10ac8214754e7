"""What breaks a client, by table."""

from dataclasses import replace

import pytest

from recprune_export.gate.compatibility import find_breaking_changes, make_common_signature
from recprune_export.program import BATCH, Input, Jagged, Output, Signature

USER = Input("user", "int64", (BATCH,), ((0, 9),))
TAGS = Input("tags", "int64", (BATCH, 3), ((1, 7),))
MIXED = Input("mixed", "float32", (BATCH, 2), ((0, 4), None))
PRICE = Input("price", "float32", (BATCH,))
CLICK = Output("click", "float32", (BATCH, 1))
BASE = Signature((USER, TAGS, MIXED, PRICE), (CLICK,))


def changed(old: Input, **changes: object) -> Signature:
    return Signature(tuple(replace(i, **changes) if i is old else i for i in BASE.inputs), BASE.outputs)  # type: ignore[arg-type]


BREAKS = {
    "gone": (Signature((USER, TAGS, MIXED), (CLICK,)), "Input 'price' is missing."),
    "renamed": (changed(PRICE, name="cost"), "Input 'price' is missing; was it renamed to 'cost'?"),
    "new": (Signature((*BASE.inputs, Input("age", "int64", (BATCH,))), (CLICK,)), "Input 'age' is new"),
    "dtype": (changed(USER, dtype="int32"), "Input 'user' has dtype int32 instead of int64."),
    "shape": (changed(TAGS, shape=(BATCH, 4)), "Input 'tags' has shape (batch, 4) instead of (batch, 3)."),
    "batch fixed": (changed(PRICE, shape=(1,)), "Input 'price' has shape (1) instead of"),
    "fewer ids": (changed(USER, ids=((0, 8),)), "Input 'user' accepts ids 0 to 8; before, it accepted 0 to 9."),
    "ids from later on": (changed(TAGS, ids=((2, 7),)), "Input 'tags' accepts ids 2 to 7; before, it accepted 1 to 7."),
    "fewer ids in a column": (changed(MIXED, ids=((0, 3), None)), "Input 'mixed', column 0 accepts ids 0 to 3"),
    "bounded now": (changed(PRICE, ids=((0, 1),)), "Input 'price' accepts ids 0 to 1; before, it was unbounded."),
    "output gone": (Signature(BASE.inputs, (Output("buy", "float32", (BATCH, 1)),)), "Output 'click' is missing."),
    "output dtype": (Signature(BASE.inputs, (replace(CLICK, dtype="float16"),)), "Output 'click' has dtype float16"),
    "output shape": (Signature(BASE.inputs, (replace(CLICK, shape=(BATCH,)),)), "Output 'click' has shape (batch)"),
}


@pytest.mark.parametrize(("new", "said"), BREAKS.values(), ids=BREAKS.keys())
def test_each_break_is_named(new: Signature, said: str) -> None:
    (sentence,) = find_breaking_changes(new, BASE)
    assert said in sentence


FINE = {
    "the same": BASE,
    "more ids": changed(USER, ids=((0, 99),)),
    "one range for the columns": changed(MIXED, ids=()),
    "another order": Signature(BASE.inputs[::-1], BASE.outputs),
    "one more output": Signature(BASE.inputs, (CLICK, Output("buy", "float32", (BATCH, 1)))),
}


@pytest.mark.parametrize("new", FINE.values(), ids=FINE.keys())
def test_what_takes_more_and_gives_more_is_compatible(new: Signature) -> None:
    assert find_breaking_changes(new, BASE) == ()


def test_ranges_may_be_left_out() -> None:
    assert find_breaking_changes(changed(USER, ids=((0, 8),)), BASE, ranges=False) == ()


def test_a_batch_that_was_fixed_may_be_free_now() -> None:
    fixed = Signature((Input("user", "int64", (1,), ((0, 9),)),), (CLICK,))
    free = Signature((USER,), (CLICK,))
    assert find_breaking_changes(free, fixed) == ()
    assert find_breaking_changes(fixed, free) != ()


def test_requests_for_both_stay_within_both() -> None:
    narrowed = make_common_signature(changed(USER, ids=((3, 30),)), BASE)
    assert narrowed is not None
    assert narrowed.inputs[0].ids == ((3, 9),)
    renamed = make_common_signature(changed(PRICE, name="cost"), BASE)
    assert renamed is not None
    assert {i.name for i in renamed.inputs} == {"user", "tags", "mixed", "price", "cost"}


@pytest.mark.parametrize(
    "new",
    [changed(USER, dtype="int32"), changed(TAGS, shape=(BATCH, 4)), changed(USER, ids=((50, 60),))],
    ids=["dtype", "shape", "disjoint ids"],
)
def test_where_no_request_suits_both_there_is_none(new: Signature) -> None:
    assert make_common_signature(new, BASE) is None


def test_a_jagged_input_may_have_longer_rows_but_no_other_form() -> None:
    def signature(jagged: Jagged | None, most: int = 4) -> Signature:
        return Signature((Input("ids", "int64", (BATCH, most), ((0, 9),), jagged=jagged),), ())

    lengths = Jagged((0, 4), "ids", "values", "lengths")
    base = signature(lengths)
    assert find_breaking_changes(signature(replace(lengths, counts=(0, 7)), 7), base) == ()
    for other in (None, replace(lengths, form="offsets"), replace(lengths, padded=True)):
        changes = find_breaking_changes(signature(other), base)
        assert changes == ("Input 'ids' is represented by other tensors of the file, or in another form.",)
        assert make_common_signature(signature(other), base) is None
