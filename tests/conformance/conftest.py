"""The API's server and its scripted backends, see `tests.api_server`."""

from tests.api_server import api, model, own_api, shared_api

__all__ = ["api", "model", "own_api", "shared_api"]
