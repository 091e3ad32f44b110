"""The child process of the judge ``nudenet``: a length and a PNG in, a length and JSON out. Imports nothing of
genward's.

Run as a script (``python -P nudenet_worker.py MODEL EDGE``), never imported by genward, so that the AGPL-licensed
package ``nudenet`` stays in a process of its own. Lengths are 4 bytes, big endian. The first message says what was
loaded (``{"classes": [...]}``) or why nothing was (``{"error": text}``); then one message a picture: ``{"found":
[{"class", "score", "box"}, ...]}`` or ``{"error": text}``. It ends when its input does."""

from __future__ import annotations

import json
import os
import signal
import struct
import sys
from importlib import import_module
from typing import Any, BinaryIO

LENGTH = struct.Struct(">I")


def receive(stream: BinaryIO) -> bytes | None:
    """One message, or ``None`` at the end of the input."""
    head = stream.read(LENGTH.size)
    if len(head) < LENGTH.size:
        return None
    size = LENGTH.unpack(head)[0]
    data = stream.read(size)
    return data if len(data) == size else None


def send(stream: BinaryIO, message: dict[str, Any]) -> None:
    data = json.dumps(message).encode()
    stream.write(LENGTH.pack(len(data)) + data)
    stream.flush()


def detector(model: str, edge: int) -> tuple[Any, list[str]]:
    """NudeNet's detector and the names of its classes, in the order of its outputs."""
    package = import_module("nudenet.nudenet")
    return package.NudeDetector(model_path=model or None, inference_resolution=edge), list(
        getattr(package, "__labels", ())
    )


def main(model: str, edge: int) -> int:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which closes our input
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints must not come between the messages
    try:
        found, classes = detector(model, edge)
    except Exception as error:
        send(answers, {"error": f"{type(error).__name__}: {str(error)[:300]}"})
        return 1
    send(answers, {"classes": classes})
    while (picture := receive(sys.stdin.buffer)) is not None:
        try:
            send(answers, {"found": found.detect(picture)})
        except Exception as error:
            send(answers, {"error": f"{type(error).__name__}: {str(error)[:300]}"})
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2])))
