"""Data sets before training sees them: where they come from, and whether they are sound."""
