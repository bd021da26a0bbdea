"""The console: one static page, and the figures it asks for below `/admin`."""
