"""Formats of files that are not read as rows, and how to convert them."""

_DECOMPRESS = "give CSV, plain or compressed with gz or zst, or Parquet"
_POLARS = "convert it, in Python: polars.{}(...).write_parquet('rows.parquet')"
_PANDAS = "convert it, in Python: pandas.{}(...).to_parquet('rows.parquet')"
# The first bytes of a format, its name and the remedy
_FORMATS = {
    b"BZh": ("bz2", _DECOMPRESS),
    b"\xfd7zXZ": ("xz", _DECOMPRESS),
    b"PK\x03\x04": ("ZIP (or a spreadsheet)", _DECOMPRESS),
    b"7z\xbc\xaf": ("7z", _DECOMPRESS),
    b"ARROW1": ("an Arrow (Feather) file", _POLARS.format("read_ipc")),
    b"\xff\xff\xff\xff": ("an Arrow stream", _POLARS.format("read_ipc_stream")),
    b"Obj\x01": ("Avro", _POLARS.format("read_avro")),
    b"ORC": ("ORC", _PANDAS.format("read_orc")),
    b"\x89HDF": ("HDF5", _PANDAS.format("read_hdf")),
    b"FEA1": ("a Feather file of version 1", _PANDAS.format("read_feather")),
    b"\x93NUMPY": ("a NumPy array", "give CSV or Parquet with a name for each column"),
    **{bytes([0x80, protocol]): ("a pickle", _PANDAS.format("read_pickle")) for protocol in range(2, 6)},
}


def describe_other_format(head: bytes) -> str | None:
    """Return the name of a format that is not read and how to convert it, by the first bytes of a file.

    >>> describe_other_format(b"BZh91AY")
    'bz2: give CSV, plain or compressed with gz or zst, or Parquet'
    """
    found = next((known for start, known in _FORMATS.items() if head.startswith(start)), None)
    return None if found is None else ": ".join(found)


def describe_json(name: str, reader: str) -> str:
    """Return the same for a text file of JSON, which the function `reader` of polars reads.

    >>> describe_json("JSON", "read_json")
    "JSON: convert it, in Python: polars.read_json(...).write_parquet('rows.parquet')"
    """
    return f"{name}: {_POLARS.format(reader)}"
