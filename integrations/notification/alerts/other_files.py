"""`recognize_foreign`: recognizes files that are commonly mistaken for an alert configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_OWN_KEYS = {"route", "receivers"}
_DECODED = "save its text, decoded from base64, as a file"

# Where the configuration is if the manifest itself does not contain its text, by the kind of the manifest.
_MANIFESTS = {
    "Secret": f"the configuration is in data[alertmanager.yaml]; {_DECODED}",
    "ConfigMap": "the configuration is in data[alertmanager.yml]; save its text as a file",
    "AlertmanagerConfig": "prometheus-operator generates the configuration from it, in the Secret "
    f"alertmanager-NAME-generated; {_DECODED}",
    "Alertmanager": f"the configuration is in the Secret that spec.configSecret names; {_DECODED}",
}
_FILES = {
    frozenset(
        {"sources", "processors", "sinks"}
    ): "this is a pipeline, not an alert configuration; use `codomyrmex-streaming check` and `run`",
    frozenset(
        {"scrape_configs", "rule_files"}
    ): "this is the configuration of Prometheus; pass that of Alertmanager, which is another file",
    frozenset(
        {"groups"}
    ): "these are rules of Prometheus, which evaluates them; pass the configuration of Alertmanager",
}


def recognize_foreign(data: Any) -> tuple[str, str] | None:
    """Return the place in the file, and a message that says what it is and what to use instead.

    Returns:
        None if the file is an alert configuration, or is not recognized.
    """
    if not isinstance(data, Mapping):
        return None
    if "apiVersion" in data and "kind" in data:
        return _manifest(data)
    if data.keys() & _OWN_KEYS:
        return None
    for path, value in _candidates(data):
        if isinstance(value, Mapping) and value.keys() & _OWN_KEYS:
            return path, f"this looks like the values of a Helm chart; save the part under {path} as a file"
    return next((("", message) for keys, message in _FILES.items() if keys & data.keys()), None)


def _manifest(data: Mapping[str, Any]) -> tuple[str, str]:
    kind = str(data["kind"])
    remedy = _MANIFESTS.get(kind, "save the text of the configuration as a file")
    path = "kind"
    for field in ("stringData", "data"):
        texts = data.get(field)
        for key, text in texts.items() if isinstance(texts, Mapping) else ():
            if str(key).endswith((".yaml", ".yml")) and isinstance(text, str):
                path = f"{field}.{key}"
                is_text = field == "stringData" or kind == "ConfigMap"
                place = f"the configuration is in {field}[{key}]"
                remedy = f"{place}; {'save its text as a file' if is_text else _DECODED}"
    return path, f"this is a Kubernetes manifest ({kind}), not an alert configuration; {remedy}"


def _candidates(data: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Return the places where the values of common Helm charts have the configuration."""
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
