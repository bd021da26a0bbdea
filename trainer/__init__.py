"""From prompts to a bundle with a promise: collect, label, fit, calibrate, evaluate, publish."""
