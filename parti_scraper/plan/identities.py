"""Identities of records that were served, in little memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyroaring import BitMap64

if TYPE_CHECKING:
    from collections.abc import Hashable


class Identities:
    """Identities, most of them numbers.

    Numbers that are close together, as those of livestreams are, take less than a byte each; numbers that are far apart
    take some hundred bytes, as in a set.
    """

    def __init__(self) -> None:
        self._numbers = BitMap64()
        self._others: set[Hashable] = set()

    def __contains__(self, identity: Hashable) -> bool:
        """Return whether the identity was added."""
        if isinstance(identity, int) and identity >= 0:
            return identity in self._numbers
        return identity in self._others

    def add(self, identity: Hashable) -> None:
        if isinstance(identity, int) and identity >= 0:
            self._numbers.add(identity)
        else:
            self._others.add(identity)

    def clear(self) -> None:
        self._numbers.clear()
        self._others.clear()
