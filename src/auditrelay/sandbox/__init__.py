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
from collections.abc import Callable
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any, Literal, Self

from auditrelay.sandbox import faults, siems, vendors
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
    "faults",
    "siems",
    "vendors",
]


class Sandbox:
    """
    All doubles, each on its own port of loopback, for the length of a ``with`` block.

    *vendors* has the double of every vendor, by the type of its source, and *siems* that of every
    intake, by its ``NAME``; each is also an attribute of that name. *flavour* is for the intakes
    that have it. All send a ``Date``, by *clock*; see ``Double.date``.
    """

    def __init__(
        self,
        *,
        flavour: Literal["elasticsearch", "opensearch"] = "elasticsearch",
        clock: Callable[[], float] = time.time,
        seed: int = 0,
    ) -> None:
        self.vendors: dict[str, Vendor] = {
            name: vendor(clock=clock, seed=seed) for name, vendor in vendors.available().items()
        }
        self.siems: dict[str, Intake] = {}
        for intake in siems.available().values():
            options = {"flavour": flavour} if flavour in intake.FLAVOURS else {}
            self.siems[intake.NAME] = intake(clock=clock, seed=seed, **options)
        for double in (*self.vendors.values(), *self.siems.values()):
            double.date = clock
        for siem in self.siems.values():
            siem.id_fields = {name: vendor.ID_FIELDS for name, vendor in self.vendors.items()}
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
