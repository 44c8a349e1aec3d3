"""The file share witness of a majority node set (docs/decisions/0023)."""

from __future__ import annotations

from dataclasses import dataclass

WITNESS_PATH_LENGTH_MAX = 1_024


@dataclass(frozen=True, slots=True, kw_only=True)
class Witness:
    """Where the witness is, and for which version of the voters it may decide."""

    path: str = ""
    """A folder on a share, under the same name on every node; empty: there is no witness."""
    token: str = ""
    """Names the folder in there that was made for this choice of a witness, 16 hexadecimal digits, so that nothing
    else is taken for it, such as the empty folder on which a share was to be mounted."""
    opened: int = 0
    """The version of the voters for which the log has last allowed a decision."""

    @property
    def chosen(self) -> bool:
        """Whether there is one."""
        return bool(self.path)
