"""Grove's own connector of Okta, which asks the sandbox instead of Okta."""

import os
from typing import Any

from grove.connectors.okta import api, system_log

api.API_BASE_URI = os.environ["BENCH_URL"]


class Client(api.Client):
    """Asks with an upper bound: the double ends no list without one, as Okta does not."""

    def _get(self, url: str, params: dict[str, Any] | None = None) -> Any:
        if params is not None:
            params["until"] = os.environ["BENCH_END"]
        return super()._get(url, params)


system_log.Client = Client
Connector = system_log.Connector
