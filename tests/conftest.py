"""Settings for all tests."""

import os

from hypothesis import HealthCheck, settings

# A busy machine must not fail a test: only results count here, not times. CI tries the same
# examples every time, so that what passed once passes again; elsewhere each run tries new ones.
settings.register_profile(
    "calm",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize="CI" in os.environ,
)
settings.load_profile("calm")
