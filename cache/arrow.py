"""Arrow tables as bytes, read back within bounds even when the bytes come from a stranger."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from cache.errors import DamagedError, StoreError

if TYPE_CHECKING:
    import pyarrow as pa

_MAGIC = b"ARROW1\0\0"
# Below it, waking Arrow's threads takes longer than the work they share.
_WORTH_THREADS = 1 << 20
# The flag under which Arrow runs code of a registered type while it reads a schema.
_EXTENSION = b"ARROW:extension:name"


def encode(table: pa.Table) -> pa.Buffer:
    """Write a table as an Arrow IPC file with compressed buffers.

    Small tables take lz4: a sixth of zstd's time for a few per cent more bytes.

    Raises:
        StoreError: A column has an extension type, which a reader would refuse.
    """
    import pyarrow as pa

    sink = pa.BufferOutputStream()
    large = table.nbytes > _WORTH_THREADS
    codec = "zstd" if large else "lz4"
    options = pa.ipc.IpcWriteOptions(compression=codec, use_threads=large)
    with pa.ipc.new_file(sink, table.schema, options=options) as writer:
        writer.write_table(table)
    if _EXTENSION in table.schema.serialize().to_pybytes():
        raise StoreError("Tables with Arrow extension types are not stored: cast the columns.")
    return sink.getvalue()


def decode(data: bytes | pa.Buffer, *, max_bytes: int, max_rows: int) -> pa.Table:
    """Read a table written by `encode`.

    Args:
        data: The Arrow IPC file.
        max_bytes: How large all buffers together may be after decompression.
        max_rows: How many rows there may be; columns of type null take no bytes.

    Raises:
        DamagedError: The bytes are no such file, exceed the bounds or contradict themselves.
    """
    import pyarrow as pa

    buffer = pa.py_buffer(data)
    if buffer.size < 2 * len(_MAGIC) or buffer.slice(0, 8).to_pybytes() != _MAGIC:
        raise DamagedError("A table is no Arrow file.")
    # The footer of the file is left aside: it could point elsewhere than to what was weighed.
    stream = buffer.slice(len(_MAGIC))
    try:
        _weigh(stream, max_bytes, max_rows)
        options = pa.ipc.IpcReadOptions(use_threads=stream.size > _WORTH_THREADS)
        with pa.ipc.open_stream(stream, options=options) as reader:
            table = reader.read_all()
        table.validate(full=True)
    except MemoryError as error:
        raise StoreError("There is not enough memory to read the result.") from error
    except (pa.ArrowException, ValueError, OSError, LookupError, struct.error) as error:
        raise DamagedError(f"A table cannot be read: {str(error)[:200]}") from error
    return table


def _weigh(stream: pa.Buffer, max_bytes: int, max_rows: int) -> None:
    """Add up what the messages would take once decompressed, without decompressing them."""
    import pyarrow as pa

    total_bytes = total_rows = 0
    reader = pa.ipc.MessageReader.open_stream(stream)
    while True:
        try:
            message = reader.read_next_message()
        except StopIteration:
            return
        metadata = message.metadata.to_pybytes()
        if message.type == "schema":
            if _EXTENSION in metadata:
                raise DamagedError("A table has Arrow extension types, which are refused.")
            continue
        body = message.body if message.body is not None else pa.py_buffer(b"")
        rows, size = _batch_size(metadata, memoryview(body))
        total_bytes += size
        total_rows += rows
        if total_bytes > max_bytes or total_rows > max_rows:
            raise DamagedError("A table is larger than is allowed.")


def _batch_size(metadata: bytes, body: memoryview) -> tuple[int, int]:
    """Rows and decompressed bytes of a record or dictionary batch, from its flatbuffer.

    The layout is that of Arrow's `Message.fbs`: pyarrow shows no sizes before it allocates them.
    """
    message = _i32(metadata, 0)
    kind_at, header = _field(metadata, message, 1), _field(metadata, message, 2)
    if kind_at is None or header is None:
        raise DamagedError("A table has a message without content.")
    batch = header + _i32(metadata, header)
    if metadata[kind_at] == 2:  # DictionaryBatch, whose field `data` is a RecordBatch
        data = _field(metadata, batch, 1)
        if data is None:
            raise DamagedError("A table has an empty dictionary.")
        batch = data + _i32(metadata, data)
    elif metadata[kind_at] != 3:
        raise DamagedError("A table has a message that is no batch.")
    length_at, buffers_at = _field(metadata, batch, 0), _field(metadata, batch, 2)
    rows = _i64(metadata, length_at) if length_at is not None else 0
    compressed = _field(metadata, batch, 3) is not None
    size = 0
    if buffers_at is not None:
        vector = buffers_at + _i32(metadata, buffers_at)
        for number in range(struct.unpack_from("<I", metadata, vector)[0]):
            offset, length = struct.unpack_from("<qq", metadata, vector + 4 + 16 * number)
            if offset < 0 or length < 0 or offset + length > len(body):
                raise DamagedError("A table points outside itself.")
            plain = _i64(body, offset) if compressed and length else -1
            size += length if plain == -1 else plain
            if plain < -1:
                raise DamagedError("A table has a buffer of negative size.")
    if rows < 0:
        raise DamagedError("A table has a batch of negative length.")
    return rows, size


def _field(data: bytes, table: int, number: int) -> int | None:
    """Where a flatbuffer table keeps a field, or None when it has its default."""
    vtable = table - _i32(data, table)
    if vtable < 0 or 4 + 2 * number >= struct.unpack_from("<H", data, vtable)[0]:
        return None
    offset: int = struct.unpack_from("<H", data, vtable + 4 + 2 * number)[0]
    return table + offset if offset else None


def _i32(data: bytes | memoryview, offset: int) -> int:
    value: int = struct.unpack_from("<i", data, offset)[0]
    return value


def _i64(data: bytes | memoryview, offset: int) -> int:
    value: int = struct.unpack_from("<q", data, offset)[0]
    return value
