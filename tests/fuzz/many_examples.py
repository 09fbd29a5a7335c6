"""A pytest plugin (`-p tests.fuzz.many_examples`): every property that names no number of examples gets many."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

EXAMPLES = 5_000

settings.register_profile(
    "many", max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck)
)
settings.load_profile("many")
