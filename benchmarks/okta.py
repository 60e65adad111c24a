"""Records of Okta for a load: described, deeply nested, twice as long as those of the seeds."""

import orjson


def okta_records(count: int) -> list[bytes]:
    """Return *count* records of Okta, which are deeply nested."""
    place = {"city": "Berlin", "country": "Germany", "geolocation": {"lat": 52.5, "lon": 13.4}}
    return [
        orjson.dumps(
            {
                "actor": {
                    "id": f"00u{number % 97:08}",
                    "type": "User",
                    "alternateId": f"dana{number % 97}@acme.example",
                    "displayName": f"Dana {number % 97}",
                    "detailEntry": None,
                },
                "client": {
                    "userAgent": {
                        "rawUserAgent": "Mozilla/5.0 (X11; Linux x86_64) Firefox/140.0",
                        "os": "Linux",
                        "browser": "FIREFOX",
                    },
                    "zone": "null",
                    "device": "Computer",
                    "id": None,
                    "ipAddress": f"203.0.113.{number % 250}",
                    "geographicalContext": place,
                },
                "device": None,
                "authenticationContext": {
                    "authenticationProvider": None,
                    "credentialType": None,
                    "issuer": None,
                    "authenticationStep": 0,
                    "externalSessionId": f"session-{number % 500}",
                },
                "displayMessage": "User login to Okta",
                "eventType": ("user.session.start", "user.session.end", "user.account.lock")[
                    number % 3
                ],
                "outcome": {"result": "SUCCESS", "reason": None},
                "published": f"2026-11-20T09:{number // 60 % 60:02d}:{number % 60:02d}.412Z",
                "securityContext": {"asNumber": 64500, "isp": "example", "isProxy": False},
                "severity": "INFO",
                "debugContext": {
                    "debugData": {"requestId": f"r{number:06}", "requestUri": "/idp/idx/identify"}
                },
                "legacyEventType": "core.user_auth.login_success",
                "transaction": {"type": "WEB", "id": f"r{number:06}", "detail": {}},
                "uuid": f"6b2f9f3e-0c1e-4b8e-9f3e-3b1f{number:08x}",
                "version": "0",
                "request": {
                    "ipChain": [
                        {
                            "ip": f"203.0.113.{number % 250}",
                            "geographicalContext": place,
                            "version": "V4",
                            "source": None,
                        }
                    ]
                },
                "target": [
                    {
                        "id": "0oa1",
                        "type": "AppInstance",
                        "alternateId": "Wiki",
                        "displayName": "Wiki",
                        "detailEntry": None,
                    }
                ],
            }
        )
        for number in range(count)
    ]
