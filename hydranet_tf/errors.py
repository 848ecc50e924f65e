"""What every error of the package is."""

from __future__ import annotations


class HydraNetError(Exception):
    """Something that the user can mend; the message says what and how.

    Each error of the package is this, and the kind of Python's that suits it:
    `except HydraNetError` catches them all, `except ValueError` still works.
    """
