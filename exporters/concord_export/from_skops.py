# SPDX-License-Identifier: Apache-2.0
"""skops files: a fitted estimator without a pickle, of types that the caller trusts one by one."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import skops.io
from skops.io.exceptions import UntrustedTypesFoundException

from concord_export.errors import SourceError

__all__ = ["read_skops"]


def read_skops(path: Path, trusted: Sequence[str] = ()) -> Any:
    """The estimator in a file that `skops.io.dump` wrote.

    Types that skops itself does not trust are constructed only if `trusted` names them; skops looks at them before it
    constructs anything. Raises SourceError, OSError.
    """
    if not zipfile.is_zipfile(path):
        raise SourceError(f"{path.name}: is no skops file; write one with skops.io.dump")
    try:
        untrusted = sorted(set(skops.io.get_untrusted_types(file=path)) - set(trusted))
        if untrusted:
            options = " ".join(f"--trust {name}" for name in untrusted)
            raise SourceError(
                f"{path.name}: holds types that are not trusted: {', '.join(untrusted)}. If you know them and trust "
                f"them: {options}"
            )
        return skops.io.load(path, trusted=[*trusted])
    except (SourceError, OSError):
        raise
    except UntrustedTypesFoundException as error:
        raise SourceError(f"{path.name}: {error}") from None
    except Exception as error:
        # A file that is broken on purpose may raise anything.
        raise SourceError(f"{path.name}: is no skops file that can be read: {error}") from None
