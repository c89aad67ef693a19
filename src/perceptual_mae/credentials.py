"""Addresses without what is nobody's business: what a run writes down is sent to colleagues and put on the web."""

import re
from typing import Any

_ADDRESS = re.compile(
    r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*://)"
    r"(?P<login>[^\s/?#]*@)?"
    r"(?P<place>[^\s?#]*)"
    r"(?P<rest>[?#]\S*?(?=[:;,.)\]'\"]*(?:\s|$)))?"  # but not the full stop of the sentence around it
)
_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{20,}\b")
"""A token of the Hugging Face hub, as its web page shows it."""


def without_credentials(text: str) -> str:
    """A text in which addresses have lost user, password, query (signatures are there) and fragment.

    A query is lost as a whole: which of its parts are secret is known only to whoever made it.
    """
    bare = _ADDRESS.sub(lambda found: found["scheme"] + found["place"], text) if "://" in text else text
    return _TOKEN.sub("hf_...", bare) if "hf_" in bare else bare


def public(value: Any) -> Any:
    """The same of every text in nested plain values; what is no text stays as it is."""
    if isinstance(value, str):
        return without_credentials(value)
    if isinstance(value, dict):
        return {key: public(item) for key, item in value.items()}
    return [public(item) for item in value] if isinstance(value, list | tuple) else value
