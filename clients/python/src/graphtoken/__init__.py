"""Uses the Microsoft Graph token that graphtoken-operator keeps fresh in a mounted file.

``graphtoken.o365`` is for python-o365, ``graphtoken.azure`` for msgraph-sdk and whatever else takes a credential of
azure-core. Each needs the extra of its name; this module needs nothing.
"""

from graphtoken._file import TokenUnavailableError

__all__ = ["TokenUnavailableError", "__version__"]

__version__ = "0.1.0"
