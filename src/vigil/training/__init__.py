"""Training of the pair: losses, steps, the resumable loop, its record, and the choice among candidates."""
