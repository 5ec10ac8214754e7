"""`Predictor`: a bundle as a function of batches of rows, for jobs that score many rows in many processes."""

import os
import sys
import threading
from collections import Counter, OrderedDict
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from recprune_export.bundle._verify import read_manifest
from recprune_export.bundle.archive.unpacking import is_packed
from recprune_export.bundle.manifest.manifest import MODEL
from recprune_export.data.encoding.encoder import Encoder, Request
from recprune_export.data.encoding.input_encoding import HISTORY, NUMERIC
from recprune_export.errors import BundleError, UsageError
from recprune_export.prediction.batch_rows import BATCH_NAME, list_columns, make_result, read_arrays, to_frame
from recprune_export.prediction.encode_requests import ArrayRows, RequestMaker, check_columns, make_requests
from recprune_export.prediction.open_model import OpenModel, open_model, read_file_signature
from recprune_export.prediction.scorer import ROWS_PER_RUN, make_scorer

MOST_OPEN_MODELS = 4  # open models of a process, each with a session
JUDGED_ROWS = 1000  # rows of a process, before which all values of a field may be new by chance
_MOST_SCHEMAS = 8  # sets of columns for which the functions that make requests are kept


class Predictor:
    """Scores batches of rows with a bundle; the result has the type of the batch and one row per row of the batch, in the same order.

    A batch is arrays by name, a polars or pandas DataFrame, or a pyarrow Table or RecordBatch. Raw values are encoded with the
    bundle's vocabularies; without them, columns have the names of the inputs, as for `predict`. The columns of the result are those
    in `keep`, unchanged, and the scores, named as in `predict`.

    The object contains only the path of the bundle and the options, so that it can be pickled. The bundle is checked, and its session
    created, at the first call in each process; predictors of one bundle share it. `threads` is the number of threads of the
    session: 1, since a pool has a process for each core. `file` is the ONNX file of the bundle.

    For a model with shared inputs, rows of equal shared values form one request; in arrays, one value applies to all rows. A sequential
    model requires the column `history`, a list of items in each row, the oldest first.

    A call raises `DataError` for invalid rows, and if nearly all values of a field, in the calls of this
    process so far and at least 1,000 rows, are unknown to the model (not with `allow_unknown`); `BundleError` if the bundle is
    damaged, or was replaced since the object was created; `UsageError` in a process that was forked from one that used polars, whose
    threads do not survive a fork.

    Raises `BundleError` for a path without a bundle, and `UsageError` for an output that cannot be a column.
    """

    def __init__(
        self,
        bundle: Path | str,
        *,
        keep: Sequence[str] = (),
        probability: bool = False,
        threads: int = 1,
        batch_size: int = ROWS_PER_RUN,
        file: str = MODEL,
        allow_unknown: bool = False,
    ) -> None:
        self.bundle = Path(bundle).absolute()
        if is_packed(self.bundle):
            raise BundleError(f"{bundle} is a packed bundle: unpack it, so that processes can share its files.")
        if threads < 1 or batch_size < 1:
            raise UsageError(f"threads ({threads}) and batch_size ({batch_size}) must be 1 or more.")
        manifest = read_manifest(self.bundle)
        self.keep, self.probability, self.threads = (
            (keep,) if isinstance(keep, str) else tuple(keep),
            probability,
            threads,
        )
        self.batch_size, self.file, self.allow_unknown = batch_size, file, allow_unknown
        self.checksum = manifest.checksum
        model = OpenModel(self.bundle, manifest, file, read_file_signature(self.bundle, manifest, file))
        columns = make_scorer(model, probability).columns
        self.columns = (*self.keep, *(column.column for column in columns))
        twice = next((name for name in self.keep if name in self.columns[len(self.keep) :]), None)
        if twice is not None:
            raise UsageError(f"keep='{twice}': an output of the model has the same name; leave it out.")

    def __call__(self, batch: Any) -> Any:
        """Return the scores of a batch, in the type of the batch. Raises the errors listed in the class."""
        opened = _open(self)
        if isinstance(batch, Mapping):
            batch = read_arrays(batch, opened.shared_columns)
        request = opened.make_request(batch, self.allow_unknown)
        scorer = make_scorer(opened.model, self.probability, self.batch_size)
        return make_result(batch, self.keep, scorer.columns, scorer.score(BATCH_NAME, request))

    def __repr__(self) -> str:
        return f"Predictor({str(self.bundle)!r})"


class _OpenPredictor:
    """A model of this process, and the functions that make requests from batches, by their columns."""

    def __init__(self, model: OpenModel) -> None:
        self.model = model
        self._makers: OrderedDict[tuple[tuple[str, str], ...], RequestMaker] = OrderedDict()
        self._rows = Counter[tuple[tuple[str, str], ...]]()  # rows whose unknown values are counted

    @cached_property
    def shared_columns(self) -> frozenset[str]:
        """The columns of the inputs that all candidates of a request share."""
        shared, encoder = [i for i in self.model.signature.inputs if i.shared], self.model.encoder
        columns = {name for i in shared for name in (i.name, *_indexed_names(i.name, i.shape))}
        if isinstance(encoder, Encoder) and NUMERIC in columns:
            columns |= {*encoder.schema.numeric, *(vector.name for vector in encoder.schema.vectors)}
        return frozenset(columns)

    def make_request(self, batch: Any, allow_unknown: bool) -> Request:
        """Return the request of a batch."""
        names, encoder = list_columns(batch), self.model.encoder
        if encoder is None and isinstance(batch, Mapping):
            return ArrayRows(BATCH_NAME, names, self.model.signature).request(batch, 0)
        _refuse_forked()
        if encoder is None:
            maker: RequestMaker = ArrayRows(BATCH_NAME, names, self.model.signature)
            return maker.request(to_frame(batch, maker.columns), 0)
        columns = encoder.schema.fields if isinstance(encoder, Encoder) else (HISTORY,)
        check_columns(BATCH_NAME, names, columns)
        frame = to_frame(batch, columns)
        kinds = tuple((name, str(kind)) for name, kind in frame.schema.items())
        if kinds not in self._makers:
            self._makers[kinds] = make_requests(
                BATCH_NAME, frame.lazy(), encoder, self.model.signature, allow_unknown=False, counts_few=False
            )
            while len(self._makers) > _MOST_SCHEMAS:
                oldest, _ = self._makers.popitem(last=False)
                del self._rows[oldest]
        maker = self._makers[kinds]
        request = maker.request(frame, 0)
        self._rows[kinds] += len(frame)
        if self._rows[kinds] >= JUDGED_ROWS and not allow_unknown:
            maker.judge()
        return request


_opened: OrderedDict[tuple[object, ...], _OpenPredictor] = OrderedDict()
_lock = threading.Lock()
_forked_with_polars = False


def _open(predictor: Predictor) -> _OpenPredictor:
    """Return the open model of this process. Raises `BundleError` if the bundle was replaced."""
    key = (predictor.bundle, predictor.checksum, predictor.file, predictor.threads)
    with _lock:
        if key not in _opened:
            if read_manifest(predictor.bundle).checksum != predictor.checksum:
                raise BundleError(
                    f"{predictor.bundle} was replaced after this Predictor was created: create a new one."
                )
            _opened[key] = _OpenPredictor(open_model(predictor.bundle, predictor.file, predictor.threads))
            while len(_opened) > MOST_OPEN_MODELS:
                _opened.popitem(last=False)
        _opened.move_to_end(key)
        return _opened[key]


def _forget_parent() -> None:
    """Discard sessions in a forked process, which does not have the threads of its parent."""
    global _lock, _forked_with_polars
    _opened.clear()
    _lock = threading.Lock()
    _forked_with_polars = _forked_with_polars or "polars" in sys.modules


os.register_at_fork(after_in_child=_forget_parent)


def _refuse_forked() -> None:
    if _forked_with_polars:
        raise UsageError(
            "This process was forked from a process that used polars, whose threads do not survive a fork, so it would wait forever: start "
            "processes with spawn or forkserver, such as ProcessPoolExecutor(mp_context=multiprocessing.get_context('spawn'))."
        )


def _indexed_names(name: str, shape: Sequence[int | str]) -> list[str]:
    return [f"{name}_{n}" for n in range(int(shape[1]))] if len(shape) == 2 and isinstance(shape[1], int) else []
