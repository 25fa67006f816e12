"""The documents of S3, written and read."""

from __future__ import annotations

from typing import TYPE_CHECKING
from xml.etree import ElementTree

from tests.doubles.s3.errors import Refused

if TYPE_CHECKING:
    from collections.abc import Sequence

    Node = tuple[str, "str | Sequence[Node]"]

NAMESPACE = "http://s3.amazonaws.com/doc/2006-03-01/"
DECLARATION = b'<?xml version="1.0" encoding="UTF-8"?>\n'


def document(name: str, content: str | Sequence[Node], *, namespace: bool = True) -> bytes:
    """Return a document without its declaration: a text or children, each a name with a text or children."""
    root = ElementTree.Element(name, {"xmlns": NAMESPACE} if namespace else {})
    _fill(root, content)
    return ElementTree.tostring(root, encoding="unicode").encode()


def error(code: str, message: str) -> bytes:
    """Return the document of an error."""
    return document("Error", [("Code", code), ("Message", message)], namespace=False)


def parsed(data: bytes, name: str) -> ElementTree.Element:
    """Return the root of a request's document, without namespaces. Raises Refused: MalformedXML."""
    try:
        root = ElementTree.fromstring(data)
    except ElementTree.ParseError as broken:
        raise Refused("MalformedXML", str(broken)) from broken
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
    if root.tag != name:
        raise Refused("MalformedXML", f"expected {name}, got {root.tag}")
    return root


def _fill(parent: ElementTree.Element, content: str | Sequence[Node]) -> None:
    if isinstance(content, str):
        parent.text = content
        return
    for name, inner in content:
        _fill(ElementTree.SubElement(parent, name), inner)
