"""Each refusal of a vendor holds the source, with the vendor's message."""

import pytest
from tests.contract.sources.conftest import Rig

from auditrelay.errors import Refused
from auditrelay.sandbox import vendors
from auditrelay.sandbox.vendors import Refusal

CASES = [
    pytest.param(kind, refusal, id=f"{kind}-{refusal.name.replace(' ', '_')}")
    for kind, vendor in vendors.available().items()
    for refusal in vendor.REFUSALS
]


@pytest.mark.parametrize("kind", vendors.available())
def test_the_usual_refusals_are_among_them(kind: str) -> None:
    """Every vendor refuses at least a wrong key, a missing permission and a wrong address."""
    statuses = {refusal.status for refusal in vendors.available()[kind].REFUSALS}
    assert statuses >= {401, 403, 404}


@pytest.mark.parametrize(("rig", "refusal"), CASES, indirect=["rig"])
async def test_a_refusal_holds_the_source_with_the_vendors_message(
    rig: Rig, refusal: Refusal, waits: list[float]
) -> None:
    rig.fill(rig.page + 1)
    changes = refusal.provoke(rig.double)
    with pytest.raises(Refused) as caught:
        await rig.pages(rig.build(**changes))
    assert caught.value.status == refusal.status
    assert refusal.words in str(caught.value)
    assert str(caught.value).startswith(f"{refusal.status} from GET {rig.double.url}")
    for key, value in changes.items():
        if "key" in key or "token" in key or "cookie" in key:
            assert value is None or value not in str(caught.value)
    assert rig.double.secret not in str(caught.value)
    assert not waits, "a retry would change nothing"
    asked = [sorted(seen.query.items()) for seen in rig.double.seen]
    assert all(asked.count(query) == 1 for query in asked)


async def test_a_rotated_key_holds_the_source_until_it_has_the_new_one(rig: Rig) -> None:
    rig.fill(rig.page + 1)
    old = rig.build()
    rig.double.rotate("rotated-key-of-the-vendor")
    with pytest.raises(Refused) as caught:
        await rig.pages(old)
    assert caught.value.status == 401
    assert await rig.shown() == rig.made()
