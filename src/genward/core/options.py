"""Values as text, the way users type them: ``name,field=value,…`` read apart, and read by a field's annotation."""

from __future__ import annotations

from typing import Any

from genward.errors import BadInput


def parts(kind: str, text: str, hint: str = "") -> tuple[str, dict[str, str]]:
    """Name and fields of ``name,field=value,…``, as judges, attacks and CSV files are named:
    ``ddim_inversion,steps=50``.

    Raises:
        BadInput: a part that is not field=value.
    """
    name, *pairs = [p.strip() for p in text.split(",")]
    given = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            more = f" ({hint} {name})" if hint else ""
            raise BadInput(f"{kind} {text!r}: {pair!r} is not field=value; write it as in {name},field=value{more}")
        given[key] = value
    return name, given


def coerce(text: str, annotation: str, where: str = "value") -> Any:
    """Read ``text`` as ``int``, ``float``, ``bool``, ``str``, ``tuple[...]`` (parts joined by ``;`` or ``/``) or any of
    these ``| None``."""
    kinds = [k.strip() for k in annotation.replace("Optional[", "").split("|")]
    if text.lower() == "none" and "None" in kinds:
        return None
    kind = next((k for k in kinds if k != "None"), "str")
    try:
        if kind.startswith("tuple") or kind == "Window":
            inner = kind[6:-1].split(",")[0].strip() if "[" in kind else "float"
            return tuple(coerce(part, inner, where) for part in text.replace("/", ";").split(";") if part)
        if kind == "bool":
            return {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}[text.lower()]
        if kind == "int":
            return int(text)
        if kind == "float":
            return float(text)
    except (ValueError, KeyError):
        raise BadInput(
            f"{where}: {text!r} does not read as {kind}; give "
            f"{'true or false' if kind == 'bool' else f'a value of type {kind}'}"
        ) from None
    return text
