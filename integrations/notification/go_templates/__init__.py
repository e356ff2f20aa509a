"""Go templates, as in the files and fields of an alertmanager.yml."""

from codomyrmex.integrations.notification.go_templates.errors import GoTemplateError
from codomyrmex.integrations.notification.go_templates.templates import GoTemplate, GoTemplates

__all__ = ["GoTemplate", "GoTemplateError", "GoTemplates"]
