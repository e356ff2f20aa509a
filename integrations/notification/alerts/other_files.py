"""`what_else`: recognizes the files that people give instead of a configuration of alerts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_OWN_KEYS = {"route", "receivers"}
_DECODED = "save its text, decoded from base64, as a file"

# Where the configuration is, by the kind of a manifest; its `data` is looked at if that has the text.
_MANIFESTS = {
    "Secret": f"the configuration is in data[alertmanager.yaml]; {_DECODED}",
    "ConfigMap": "the configuration is in data[alertmanager.yml]; save its text as a file",
    "AlertmanagerConfig": "prometheus-operator makes the configuration of it, in the Secret "
    f"alertmanager-NAME-generated; {_DECODED}",
    "Alertmanager": f"the configuration is in the Secret that spec.configSecret names; {_DECODED}",
}
_FILES = {
    frozenset(
        {"sources", "processors", "sinks"}
    ): "this is a pipeline and not a configuration of alerts; its commands are `check` and `run`",
    frozenset(
        {"scrape_configs", "rule_files"}
    ): "this is the configuration of Prometheus; that of Alertmanager is a file of its own",
    frozenset({"groups"}): "these are rules of Prometheus, which evaluates them and sends the alerts",
}


def what_else(data: Any) -> tuple[str, str] | None:
    """Return what a file is and what to use instead, with the place in it; None if it is a configuration."""
    if not isinstance(data, Mapping):
        return None
    if "apiVersion" in data and "kind" in data:
        return _manifest(data)
    if data.keys() & _OWN_KEYS:
        return None
    for path, value in _candidates(data):
        if isinstance(value, Mapping) and value.keys() & _OWN_KEYS:
            message = f"this looks like the values of a Helm chart; save what is under {path} as a file"
            return path, f"{message} of its own"
    return next((("", message) for keys, message in _FILES.items() if keys & data.keys()), None)


def _manifest(data: Mapping[str, Any]) -> tuple[str, str]:
    kind = str(data["kind"])
    remedy = _MANIFESTS.get(kind, "use the text of the file in it")
    path = "kind"
    for field in ("stringData", "data"):
        texts = data.get(field)
        for key, text in texts.items() if isinstance(texts, Mapping) else ():
            if str(key).endswith((".yaml", ".yml")) and isinstance(text, str):
                path = f"{field}.{key}"
                is_text = field == "stringData" or kind == "ConfigMap"
                place = f"the configuration is in {field}[{key}]"
                remedy = f"{place}; {'save its text as a file' if is_text else _DECODED}"
    return path, f"this is a Kubernetes manifest ({kind}) and not a configuration of alerts; {remedy}"


def _candidates(data: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Return where the values of the charts of Prometheus and Alertmanager have the configuration."""
    found = [("config", data.get("config"))]
    for name, value in data.items():
        if isinstance(value, Mapping):
            found.append((f"{name}.config", value.get("config")))
            inner = value.get("alertmanager")
            if isinstance(inner, Mapping):
                found.append((f"{name}.alertmanager.config", inner.get("config")))
    files = data.get("alertmanagerFiles")
    if isinstance(files, Mapping):
        found += [(f"alertmanagerFiles.{name}", value) for name, value in files.items()]
    return found
