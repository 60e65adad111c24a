"""A connector of Grove for the audit log of Cekura, as Grove's own connectors are written."""

import os
from typing import Any

import requests
from grove.connectors import BaseConnector
from grove.constants import REVERSE_CHRONOLOGICAL
from grove.exceptions import NotFoundException


class Connector(BaseConnector):
    """Reads page after page, newest first, with a new connection for each."""

    CONNECTOR = "cekura_audit_logs"
    POINTER_PATH = "timestamp"
    LOG_ORDER = REVERSE_CHRONOLOGICAL

    def collect(self) -> None:
        """Collect everything since the pointer; at first, since BENCH_START."""
        try:
            start = self.pointer
        except NotFoundException:
            start = self.pointer = os.environ["BENCH_START"]
        params: dict[str, Any] = {
            "organization_id": self.identity,
            "start_time": start,
            "end_time": os.environ["BENCH_END"],
            "page_size": os.environ["BENCH_PAGE"],
            "page": 1,
        }
        while True:
            response = requests.get(
                os.environ["BENCH_URL"], headers={"X-CEKURA-API-KEY": self.key}, params=params
            )
            response.raise_for_status()
            body = response.json()
            self.save(body["results"])
            if not body.get("next"):
                break
            params["page"] += 1
