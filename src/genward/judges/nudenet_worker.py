"""The child process of the judge ``nudenet``: a length and a PNG in, a length and JSON out. Imports nothing of
genward's.

Run as a script (``python -P nudenet_worker.py MODEL EDGE``), never imported by genward, so that the AGPL-licensed
package ``nudenet`` stays in a process of its own. Colors: the network was trained on RGB, but the package (3.4.2)
swaps red and blue of whatever it decodes itself, so pictures are decoded here and handed over as arrays, in the order
of channels that a red picture shows to arrive as red. Lengths are 4 bytes, big endian. The first message says what was
loaded (``{"classes": [...]}``) or why nothing was (``{"error": text}``); then one message a picture: ``{"found":
[{"class", "score", "box"}, ...]}`` or ``{"error": text}``. It ends when its input does."""

from __future__ import annotations

import io
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


def detector(model: str, edge: int) -> tuple[Any, list[str], bool]:
    """NudeNet's detector, the names of its classes in the order of its outputs, and ``swapped``: whether arrays must
    come as BGR for the network to see RGB.

    Raises:
        RuntimeError: the package's preparation of pictures is not as expected, so nobody knows what the network sees.
    """
    package = import_module("nudenet.nudenet")
    red = pixels(_red(), False)
    blob = package._read_image(red, edge)[0]  # (1, 3, edge, edge) in [0, 1]
    seen = [round(float(blob[0, k].mean()), 3) for k in range(3)]
    if seen not in ([1.0, 0.0, 0.0], [0.0, 0.0, 1.0]):
        raise RuntimeError(f"a red picture reaches the network as {seen}, neither RGB nor BGR; install nudenet 3.4")
    found = package.NudeDetector(model_path=model or None, inference_resolution=edge)
    return found, list(getattr(package, "__labels", ())), seen[0] == 0.0


def pixels(picture: bytes, swapped: bool) -> Any:
    """A PNG as an array (h, w, 3) uint8: RGB, or BGR where ``swapped``."""
    import numpy as np
    from PIL import Image

    array = np.asarray(Image.open(io.BytesIO(picture)).convert("RGB"))
    return np.ascontiguousarray(array[..., ::-1]) if swapped else array


def _red() -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.new("RGB", (32, 32), (255, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def main(model: str, edge: int) -> int:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which closes our input
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints must not come between the messages
    try:
        found, classes, swapped = detector(model, edge)
    except Exception as error:
        send(answers, {"error": f"{type(error).__name__}: {str(error)[:300]}"})
        return 1
    send(answers, {"classes": classes})
    while (picture := receive(sys.stdin.buffer)) is not None:
        try:
            send(answers, {"found": found.detect(pixels(picture, swapped))})
        except Exception as error:
            send(answers, {"error": f"{type(error).__name__}: {str(error)[:300]}"})
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2])))
