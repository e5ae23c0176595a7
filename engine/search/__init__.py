"""The search for the numbers of a merge: its space, its objective, and the driver that owns the Optuna study."""
