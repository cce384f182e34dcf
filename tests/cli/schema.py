"""The one schema of the command's JSON documents, as docs/reference/json.md describes it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

HEX = re.compile(r"0x[0-9a-f]+")
MAYBE_TEXT = (str, None)
MAYBE_NUMBER = (int, None)

DEVICE = {
    "name": str,
    "bus": str,
    "path": str,
    "driver": MAYBE_TEXT,
    "group": MAYBE_NUMBER,
    "cdev": MAYBE_TEXT,
    "ready": bool,
    "missing": MAYBE_TEXT,
}

PLUGIN = {
    "name": str,
    "distribution": str,
    "state": ("loaded", "blocked", "broken"),
    "provides": [str],
    "reason": str,
}

PROPERTY = {"name": str, "type": str, "default": str, "help": str}

LIVE_DEVICE = {
    "id": str,
    "type": str,
    "name": str,
    "backend": str,
    "container": str,
    "flags": HEX,
    "regions": int,
    "irqs": int,
    "migration": {"enabled": bool, "supported": bool, "dirty_tracking": bool, "reason": str},
    "reaches_peers": bool,
    "ram_discard_allowed": bool,
}

CONTAINER = {
    "label": str,
    "backend": str,
    "page_sizes": HEX,
    "iova_ranges": [[HEX]],
    "mappings": int,
    "mapped_bytes": int,
}

STEP = {
    "device": str,
    "type": str,
    "did": str,
    "bytes": int,
    "interrupts": int,
    "microseconds": int,
}

SCENARIO = {
    "title": str,
    "options": str,
    "backend": str,
    "open_microseconds": int,
    "close_microseconds": int,
    "steps": [STEP],
}

PROBLEM = {"path": str, "message": str, "hint": MAYBE_TEXT}

ERROR = {
    "type": str,
    "message": str,
    "exit_code": int,
    "notes": [str],
    "problems": [PROBLEM],
}

KERNEL_ERROR = ERROR | {"errno": str, "operation": str, "subject": str, "hint": MAYBE_TEXT}

KINDS: Mapping[str, Mapping[str, Any]] = {
    "check": {"ok": bool, "items": [str]},
    "plugin-list": {"items": [PLUGIN]},
    "device-list": {"host": str, "items": [DEVICE]},
    "device": {"host": str, "device": DEVICE, "group": [DEVICE]},
    "type": {"name": str, "of": ("device", "object"), "help": str, "properties": [PROPERTY]},
    "session": {"host": str, "devices": [LIVE_DEVICE], "containers": [CONTAINER]},
    "plugin-new": {"path": str, "files": [str]},
    "demo": {"scenarios": [SCENARIO], "seconds": float},
    "error": {"error": (ERROR, KERNEL_ERROR)},
}


def faults(document: Any) -> list[str]:
    """Where a document differs from the schema; empty if nowhere."""
    kind = document.get("kind")
    if kind not in KINDS:
        return [f"kind {kind!r} is not in the schema"]
    return _faults(document, {"schema": 1, "kind": kind, **KINDS[kind]}, kind)


def _faults(value: Any, shape: Any, path: str) -> list[str]:
    if isinstance(shape, tuple):
        found = [_faults(value, choice, path) for choice in shape]
        return [] if [] in found else found[0]
    if isinstance(shape, list):
        if not isinstance(value, list):
            return [f"{path}: {value!r} is no list"]
        pairs = enumerate(value)
        return [fault for at, item in pairs for fault in _faults(item, shape[0], f"{path}[{at}]")]
    if isinstance(shape, Mapping):
        if not isinstance(value, dict) or value.keys() != shape.keys():
            return [f"{path}: {value!r} has not the members {sorted(shape)}"]
        names = shape.keys()
        return [fault for n in names for fault in _faults(value[n], shape[n], f"{path}.{n}")]
    return [] if _fits(value, shape) else [f"{path}: {value!r} is not {shape}"]


def _fits(value: Any, shape: Any) -> bool:
    if isinstance(shape, re.Pattern):
        return isinstance(value, str) and shape.fullmatch(value) is not None
    if isinstance(shape, type):
        return type(value) is shape
    return bool(value == shape)
