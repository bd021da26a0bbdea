"""The loop that keeps a policy honest: shadow answers, live quality, drift, canary, and what it knows."""
