"""The JSON schema for editors."""

import json
import re

from auditrelay.config import model
from auditrelay.config.schema import json_schema


def test_the_schema_describes_every_key_of_every_type() -> None:
    schema = json_schema()
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert set(schema["properties"]) == {
        "state_dir",
        "store",
        "replica",
        "status",
        "log",
        "alerts",
        "evidence",
        "spool",
        "sources",
        "sinks",
    }
    for kind, members, described in (
        ("sources", model.SOURCES, model.SOURCES.described),
        ("sinks", model.SINKS, model.SINKS.described),
    ):
        choices = schema["properties"][kind]["additionalProperties"]["oneOf"]
        types = (*members, *described)
        assert choices == [{"$ref": f"#/$defs/{kind}.{name}"} for name in types]
        for name, settings in members.items():
            definition = schema["$defs"][f"{kind}.{name}"]
            assert set(definition["properties"]) == set(settings.model_fields)
            assert definition["properties"]["type"]["const"] == name
            assert "type" in definition["required"]
            assert definition["additionalProperties"] is False
    cekura = schema["$defs"]["sources.cekura"]["properties"]
    assert cekura["poll_interval"]["default"] == "5m"
    assert cekura["resweep"]["default"] == ["1h", "1d"]
    assert cekura["api_key"] == {"type": "string", "writeOnly": True}
    assert schema["properties"]["store"] == {"type": "string", "writeOnly": True}
    text = json.dumps(schema)
    assert not any(word in text for word in ('"null"', "PT5M", '"gt"', "_Whole"))
    references = re.findall(r'"\$ref": "#/\$defs/([^"]+)"', text)
    count = sum(len(each) + len(each.described) for each in (model.SOURCES, model.SINKS))
    assert len(references) == count + 5
    assert set(references) == set(schema["$defs"])
