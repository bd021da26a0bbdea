"""Settings -> where the use of keys is counted: on this host, or in Redis for several replicas."""

from __future__ import annotations

from proxy.auth_settings import AuthSettings
from proxy.limits import Meter
from proxy.settings import read_secret
from proxy.usage import LocalMeter


def open_meter(auth: AuthSettings) -> Meter:
    """Raises `SettingsError`."""
    home = LocalMeter(auth.usage_dir)
    url = read_secret(auth.redis_url_env)
    if not url:
        return home
    from proxy.redis_meter import RedisMeter

    return RedisMeter(url, home, auth.redis_timeout_ms, auth.on_redis_failure == "refuse")
