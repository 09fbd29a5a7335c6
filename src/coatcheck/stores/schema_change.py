"""What stores with tables say about them: for `coatcheck migrate`, and to those who came too late."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from coatcheck.errors import StoreUnavailable


@runtime_checkable
class HasSchema(Protocol):
    """A store whose tables have a version. One without this method has nothing that could be of another release."""

    async def migrate(self) -> list[str]:
        """
        Bring what is stored to the schema of this release; return what was changed, one phrase each.

        The first use of the store does the same: this is for those who want it done before. Any number of processes may
        do it at once; one of them changes what there is to change.

        Raises:
            StoreUnavailable: it does not answer, it is of a newer release, or we may not change it.
        """
        ...


def change(part: str, found: int, known: int) -> str:
    """Say that *part* was brought from version *found* (0: there was nothing) to version *known*."""
    return f"made the {part} (schema {known})" if found == 0 else f"brought the {part} from schema {found} to {known}"


def refuse_newer(part: str, found: int, known: int, *, where: str) -> None:
    """
    Stop who knows less than whoever wrote what is stored.

    Raises:
        StoreUnavailable: version *found* of *part* is above what is *known* here.
    """
    if found > known:
        raise StoreUnavailable(
            f"the {part} in {where} were written by a newer coatcheck (schema {found}, this one knows {known}): run "
            "that version again, or give another place"
        )
