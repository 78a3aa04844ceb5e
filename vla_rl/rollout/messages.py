"""Messages between processes: arrays through shared memory, everything else through a pipe."""

from __future__ import annotations

import pickle
from multiprocessing.connection import Connection
from multiprocessing.shared_memory import SharedMemory
from typing import cast

INLINE_BYTES = 1 << 18  # smaller arrays are sent through the pipe, which is as fast


def send(connection: Connection, message: object) -> None:
    """Send any picklable message; large arrays are put into one shared segment."""
    buffers: list[pickle.PickleBuffer] = []
    body = pickle.dumps(message, protocol=5, buffer_callback=buffers.append)
    views = [buffer.raw() for buffer in buffers]
    sizes = [view.nbytes for view in views]
    if sum(sizes) < INLINE_BYTES:
        connection.send((body, None, [bytes(view) for view in views]))
        return
    segment = SharedMemory(create=True, size=sum(sizes))
    block, offset = cast(memoryview, segment.buf), 0
    for view, size in zip(views, sizes, strict=True):
        block[offset : offset + size] = view
        offset += size
    name = segment.name
    block.release()
    segment.close()
    connection.send((body, name, sizes))


def receive(connection: Connection) -> object:
    """Receive what :func:`send` sent; arrays are private copies."""
    body, name, parts = connection.recv()
    if name is None:
        return pickle.loads(body, buffers=[bytearray(part) for part in parts])
    segment = SharedMemory(name=name)
    block, buffers, offset = cast(memoryview, segment.buf), [], 0
    for size in parts:
        buffers.append(bytearray(block[offset : offset + size]))
        offset += size
    block.release()
    segment.close()
    segment.unlink()
    return pickle.loads(body, buffers=buffers)
