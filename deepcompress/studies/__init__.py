"""Many compressions: sweeps, searches, comparisons and sensitivities."""
