"""How fast steps are, and why: timing, FLOPs, rooflines, compiled modules, stages of a step."""
