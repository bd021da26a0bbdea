"""The server: OpenAI's surface, POST /chat, backends over HTTP, auth, metrics and the `upshift` command."""
