"""All targets of the fuzzer."""

from fuzz.config_targets import TARGETS as CONFIG_TARGETS
from fuzz.record_targets import TARGETS as RECORD_TARGETS
from fuzz.web_targets import TARGETS as WEB_TARGETS

TARGETS = {**RECORD_TARGETS, **WEB_TARGETS, **CONFIG_TARGETS}
