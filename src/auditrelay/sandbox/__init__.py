"""
Doubles of the vendors' audit-log APIs and of the SIEMs' intakes: faithful, strict and scriptable.

They speak HTTP on loopback, remember what they were asked, and count what they really stored apart
from what they answered, so that loss and duplicates can be counted without trusting either side.
Nothing here imports the rest of auditrelay: a misread protocol must not be shared by both sides.

::

    async with Sandbox() as sandbox:
        sandbox.cekura.fill(100, start, end)
        sandbox.splunk.faults.add(faults.store_then_reset(), method="POST", nth=2)
        ...
        assert not sandbox.splunk.stored.lost(sandbox.cekura.history.ids())
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any, Literal, Self

from auditrelay.sandbox import described, faults, receivers, siems, vendors
from auditrelay.sandbox.messages import Request, Response
from auditrelay.sandbox.server import Double, Trap
from auditrelay.sandbox.siems import Intake
from auditrelay.sandbox.vendors import Vendor

__all__ = [
    "Double",
    "Intake",
    "Request",
    "Response",
    "Sandbox",
    "Trap",
    "Vendor",
    "available_vendors",
    "faults",
    "siems",
    "usual_vendors",
    "vendors",
]


def available_vendors() -> list[str]:
    """Return the names of all vendors that a sandbox can have, those with a module first."""
    return [*vendors.available(), *described.available()]


def usual_vendors() -> list[str]:
    """Return the names of the vendors that a sandbox has without being asked for others."""
    return list(vendors.available())


class Sandbox:
    """
    All doubles, each on its own port of loopback, for the length of a ``with`` block.

    *vendors* has the double of every vendor, by the type of its source, and *siems* that of every
    intake, by its ``NAME``; each is also an attribute of that name. *flavour* is for the intakes
    that have it. All send a ``Date``, by *clock*; see ``Double.date``.

    With *only* it has those of :func:`available_vendors` alone; without, those with a module. The
    double of a description is called as its sample reply is: ``okta``, ``entra.sign_ins``. Of the
    intakes that are there on request it has those whose types are in *also*, and of the receivers
    that are described in files those whose names or files are.
    """

    def __init__(
        self,
        *,
        flavour: Literal["elasticsearch", "opensearch"] = "elasticsearch",
        clock: Callable[[], float] = time.time,
        seed: int = 0,
        only: Sequence[str] | None = None,
        also: Sequence[str] = (),
    ) -> None:
        modules = vendors.available()
        self.vendors: dict[str, Vendor] = {}
        for name in modules if only is None else dict.fromkeys(only):
            if name in modules:
                self.vendors[name] = modules[name](clock=clock, seed=seed)
                continue
            for double in described.doubles(name, clock=clock):
                origin = double.description.origin
                is_siem = origin in {each.NAME for each in siems.available().values()}
                self.vendors[f"{origin}-log" if is_siem else origin] = double
        self.siems = dict(_intakes(flavour, also, clock, seed))
        for every in (*self.vendors.values(), *self.siems.values()):
            every.date = clock
        marked = any(isinstance(each, described.Described) for each in self.vendors.values())
        for siem in self.siems.values():
            siem.id_fields = {
                name: vendor.ID_FIELDS for name, vendor in self.vendors.items() if vendor.ID_FIELDS
            }
            siem.stored.marked = marked
            if siem.not_indexed is not None:
                siem.not_indexed.marked = marked
        self._stack = AsyncExitStack()

    def __getattr__(self, name: str) -> Any:
        for doubles in ("vendors", "siems"):
            if name in self.__dict__.get(doubles, ()):
                return self.__dict__[doubles][name]
        raise AttributeError(f"there is no double {name!r}")

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            for double in (*self.vendors.values(), *self.siems.values()):
                await stack.enter_async_context(double)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._stack.aclose()


def _intakes(
    flavour: str, also: Sequence[str], clock: Callable[[], float], seed: int
) -> Iterator[tuple[str, Intake]]:
    """Yield each intake of a sandbox, and what it is called there."""
    known = siems.available()
    for kind, intake in known.items():
        if not intake.ON_REQUEST or kind in also:
            options = {"flavour": flavour} if flavour in intake.FLAVOURS else {}
            yield intake.NAME, intake(clock=clock, seed=seed, **options)
    for which in also:
        if which not in known:
            receiver = receivers.double(which, clock=clock, seed=seed)
            yield receiver.description.name, receiver
