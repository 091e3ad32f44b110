"""An engineer in production: guards around a pipeline, a blocked row, the audit record. Run it in an empty folder."""

from __future__ import annotations

import json
from pathlib import Path

import genward

pipe = genward.lab.pipeline()
with genward.protect(pipe, policy="weapons", defenses=["normalize", "aeiou"], audit="audit.jsonl") as guarded:
    out = guarded(["a cat in twemoji style", "a bomb in noto style"], num_inference_steps=4)

for name, picture, verdict in zip(("cat", "bomb"), out.images, out.verdicts, strict=True):
    print(name, verdict.action, "picture" if picture is not None else "no picture")
    if picture is not None:
        picture.save(f"{name}.png")

records = [json.loads(line) for line in Path("audit.jsonl").read_text("utf-8").splitlines()]
print(len(records), "audit records")
