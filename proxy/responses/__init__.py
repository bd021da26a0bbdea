"""The Responses API: translated to chat completions, or passed to a pinned tier that has it."""
