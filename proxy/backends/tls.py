"""TLS to the backends: whom to trust."""

from __future__ import annotations

import ssl

from proxy.settings import BackendSettings
from routing.errors import SettingsError


def backend_tls(settings: BackendSettings) -> ssl.SSLContext | bool:
    """What `HttpBackend` takes: a context with the private CA, True for the system's, False to trust anyone.

    Raises `SettingsError` for a CA file that cannot be used.
    """
    if not settings.verify_tls or settings.tls_ca is None:
        return settings.verify_tls
    try:
        return ssl.create_default_context(cafile=settings.tls_ca)
    except (OSError, ssl.SSLError) as error:
        raise SettingsError(
            f"backends.tls_ca: {settings.tls_ca} cannot be used as PEM certificates: {error}"
        ) from error
