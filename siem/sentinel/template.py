"""
Print the template for Azure: tables, data collection rule, functions and alert (``make generate``).

``az deployment group create --template-file siem/sentinel/template.json`` makes all of it.
"""

import json
import re
import sys
from pathlib import Path
from typing import Any, Final

HERE: Final = Path(__file__).parent

TIMES: Final = ("TimeGenerated", "EventStartTime", "EventEndTime")
OTHERS: Final = {"EventCount": "int", "AdditionalFields": "dynamic"}

COMMON: Final = (
    *("TimeGenerated", "EventUid", "EventCount", "EventStartTime", "EventEndTime", "EventType"),
    *("EventResult", "EventResultDetails", "EventOriginalResultDetails", "EventSeverity"),
    *("EventVendor", "EventProduct", "EventSchema", "EventSchemaVersion", "EventOriginalUid"),
    *("EventOriginalType", "EventOriginalSubType", "EventMessage", "Dvc", "SrcIpAddr"),
    *("HttpUserAgent", "TargetAppName", "TargetAppType", "ActorUsername", "ActorUsernameType"),
    *("ActorUserId", "ActorUserIdType", "ActorUserType", "ActorOriginalUserType"),
    *("AdditionalFields", "RecordText", *(f"RecordText{number}" for number in range(2, 17))),
)
STREAMS: Final = {
    "AuditRelay": (*COMMON, "Operation", "Object", "ObjectId", "ObjectType", "NewValue"),
    "AuditRelayAuthentication": (
        *COMMON,
        *("TargetUsername", "TargetUsernameType", "TargetUserId", "TargetUserIdType"),
        *("TargetUserType", "TargetOriginalUserType"),
    ),
}
"""The columns of each stream, and of the table behind it, which is called ``NAME_CL``."""

_WORKSPACE: Final = (
    "[resourceId('Microsoft.OperationalInsights/workspaces', parameters('workspace'))]"
)
_RULE: Final = "[resourceId('Microsoft.Insights/dataCollectionRules', parameters('rule'))]"
_SCOPE: Final = "[format('Microsoft.Insights/dataCollectionRules/{0}', parameters('rule'))]"

_PUBLISHER: Final = "3913510d-42f4-4e42-8a64-420c390055eb"
"""The role Monitoring Metrics Publisher, which has this id everywhere."""

_PARAMETERS: Final = re.compile(r"^let parser = \(\n(.*?)\n\) \{", re.DOTALL | re.MULTILINE)


def columns(stream: str, time: str) -> list[dict[str, str]]:
    """Return the columns of *stream*; *time* is what the type of a time is called."""
    return [
        {"name": name, "type": time if name in TIMES else OTHERS.get(name, "string")}
        for name in STREAMS[stream]
    ]


def functions() -> dict[str, str]:
    """Return the text of each function, by its name."""
    return {path.stem: path.read_text("utf-8") for path in sorted((HERE / "functions").iterdir())}


def template() -> dict[str, Any]:
    """Return the template."""
    tables = [_table(stream) for stream in STREAMS]
    return {
        "$schema": "https://schema.management.azure.com/schemas/2019-04-01/"
        "deploymentTemplate.json#",
        "contentVersion": "1.0.0.0",
        "parameters": {
            "workspace": _parameter("The Log Analytics workspace, in this resource group."),
            "location": _parameter(
                "The region of the workspace.", default="[resourceGroup().location]"
            ),
            "rule": _parameter("The name of the data collection rule.", default="auditrelay"),
            "principalId": _parameter(
                "The object id of the service principal or identity that sends; empty: the role "
                "is given by hand.",
                default="",
            ),
            "actionGroup": _parameter(
                "The resource id of the action group that the alert calls; empty: none.",
                default="",
            ),
        },
        "resources": [*tables, _rule(), _diagnostics(), _role(), *_functions(), _alert()],
        "outputs": {
            "endpoint": _output(
                f"[reference({_RULE[1:-1]}, '2023-03-11').endpoints.logsIngestion]"
            ),
            "rule_id": _output(f"[reference({_RULE[1:-1]}, '2023-03-11').immutableId]"),
        },
    }


def _parameter(description: str, default: str | None = None) -> dict[str, Any]:
    parameter: dict[str, Any] = {"type": "string", "metadata": {"description": description}}
    return parameter if default is None else {**parameter, "defaultValue": default}


def _output(value: str) -> dict[str, str]:
    return {"type": "string", "value": value}


def _table(stream: str) -> dict[str, Any]:
    name = f"{stream}_CL"
    return {
        "type": "Microsoft.OperationalInsights/workspaces/tables",
        "apiVersion": "2023-09-01",
        "name": f"[format('{{0}}/{name}', parameters('workspace'))]",
        "properties": {"schema": {"name": name, "columns": columns(stream, "dateTime")}},
    }


def _rule() -> dict[str, Any]:
    return {
        "type": "Microsoft.Insights/dataCollectionRules",
        "apiVersion": "2023-03-11",
        "name": "[parameters('rule')]",
        "location": "[parameters('location')]",
        "kind": "Direct",
        "dependsOn": [
            "[resourceId('Microsoft.OperationalInsights/workspaces/tables', "
            f"parameters('workspace'), '{stream}_CL')]"
            for stream in STREAMS
        ],
        "properties": {
            "streamDeclarations": {
                f"Custom-{stream}": {"columns": columns(stream, "datetime")} for stream in STREAMS
            },
            "destinations": {
                "logAnalytics": [{"workspaceResourceId": _WORKSPACE, "name": "workspace"}]
            },
            "dataFlows": [
                {
                    "streams": [f"Custom-{stream}"],
                    "destinations": ["workspace"],
                    "transformKql": "source",
                    "outputStream": f"Custom-{stream}_CL",
                }
                for stream in STREAMS
            ],
        },
    }


def _diagnostics() -> dict[str, Any]:
    """Return the setting without which rows that the rule drops are shown nowhere."""
    return {
        "type": "Microsoft.Insights/diagnosticSettings",
        "apiVersion": "2021-05-01-preview",
        "name": "errors",
        "scope": _SCOPE,
        "dependsOn": [_RULE],
        "properties": {
            "workspaceId": _WORKSPACE,
            "logs": [{"category": "LogErrors", "enabled": True}],
        },
    }


def _role() -> dict[str, Any]:
    role = f"[subscriptionResourceId('Microsoft.Authorization/roleDefinitions', '{_PUBLISHER}')]"
    return {
        "condition": "[not(empty(parameters('principalId')))]",
        "type": "Microsoft.Authorization/roleAssignments",
        "apiVersion": "2022-04-01",
        "name": f"[guid({_RULE[1:-1]}, parameters('principalId'), '{_PUBLISHER}')]",
        "scope": _SCOPE,
        "dependsOn": [_RULE],
        "properties": {
            "roleDefinitionId": role,
            "principalId": "[parameters('principalId')]",
            "principalType": "ServicePrincipal",
        },
    }


def _functions() -> list[dict[str, Any]]:
    found = []
    for name, text in functions().items():
        parameters = _PARAMETERS.search(text)
        properties = {
            "category": "auditrelay",
            "displayName": name,
            "functionAlias": name,
            "query": text,
            "version": 2,
        }
        if parameters is not None:
            properties["functionParameters"] = re.sub(r"\s+", "", parameters[1])
        found.append(
            {
                "type": "Microsoft.OperationalInsights/workspaces/savedSearches",
                "apiVersion": "2020-08-01",
                "name": f"[format('{{0}}/{name}', parameters('workspace'))]",
                "dependsOn": [_RULE],
                "properties": properties,
            }
        )
    return found


def _alert() -> dict[str, Any]:
    query = f"[format('DCRLogErrors | where _ResourceId =~ ''{{0}}''', {_RULE[1:-1]})]"
    return {
        "type": "Microsoft.Insights/scheduledQueryRules",
        "apiVersion": "2023-12-01",
        "name": "[format('{0}-errors', parameters('rule'))]",
        "location": "[parameters('location')]",
        "kind": "LogAlert",
        "dependsOn": [_RULE],
        "properties": {
            "displayName": "auditrelay: Azure drops rows that it has taken",
            "description": "The data collection rule has taken rows and cannot store them. "
            "auditrelay has counted them as delivered: Azure's answer was a success.",
            "severity": 1,
            "enabled": True,
            "evaluationFrequency": "PT15M",
            "windowSize": "PT30M",
            "scopes": [_WORKSPACE],
            # The table is not there before the first error.
            "skipQueryValidation": True,
            "criteria": {
                "allOf": [
                    {
                        "query": query,
                        "timeAggregation": "Count",
                        "operator": "GreaterThan",
                        "threshold": 0,
                        "failingPeriods": {
                            "numberOfEvaluationPeriods": 1,
                            "minFailingPeriodsToAlert": 1,
                        },
                    }
                ]
            },
            "actions": {
                "actionGroups": "[if(empty(parameters('actionGroup')), createArray(), "
                "createArray(parameters('actionGroup')))]"
            },
        },
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(template(), indent=2) + "\n")
