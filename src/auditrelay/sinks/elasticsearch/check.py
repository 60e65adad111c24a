"""What the cluster grants and lacks before the first event."""

import re

RIGHTS = ("create_doc", "auto_configure", "read", "view_index_metadata")
"""Of these the first is needed, the second to make an index, the others to look for duplicates."""


TEMPLATES = ",".join(
    f"index_templates.{key}"
    for key in (
        "name",
        "index_template.index_patterns",
        "index_template.priority",
        "index_template.composed_of",
        "index_template.data_stream",
    )
)


GENERATION = re.compile(r"-\d{4}\.\d\d\.\d\d-\d{6}$")
"""The end of a backing index's name."""


BUILT_IN = re.compile(r"(logs|metrics|traces|synthetics)-.*-")
"""Names that Elasticsearch's own templates make data streams of."""
